/* SPDX-License-Identifier: Apache-2.0 */
/* header.c - the public face of a message's headers. Checks, then calls down. */
#include "wire/attributes.h"

_Static_assert(sizeof(struct thmq_header) == 24, "public layout");

int thmq_header_next(const struct thmq_message *message, uint32_t *cursor, struct thmq_header *ret_header)
{
	if (!message || !cursor || !ret_header)
		return -EINVAL;
	return message->headers ? thmqi_header_next(message->headers, message->headers_len, cursor, ret_header) : 0;
}

int thmq_header_find(const struct thmq_message *message, const char *name, struct thmq_header *ret_header)
{
	struct thmq_header h;
	uint32_t cursor = 0;
	int rc;

	if (!message || !name || !ret_header)
		return -EINVAL;
	while ((rc = thmq_header_next(message, &cursor, &h)) == 1) {
		if (strcmp(h.name, name) != 0)
			continue;
		*ret_header = h;
		return 0;
	}
	return rc ? rc : -ENOENT;
}
