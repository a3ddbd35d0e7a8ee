/* SPDX-License-Identifier: Apache-2.0 */
/* members.c - memberships as bytes; doc/format.md is their specification. Nothing here is believed before it was checked. */
#include "members.h"

#define MEMBERS_MAGIC 0x31424d4du /* "MMB1" */
#define MEMBERS_VERSION 1u
#define SINGLE_BYTES 8u /* a log with one copy says but the number of its node */

struct head {
	uint32_t magic;
	uint16_t version;
	uint8_t count, previous_count;
	uint64_t previous_index;
};
_Static_assert(sizeof(struct head) == 16, "as in doc/format.md");

/* Followed by the address, padded to 8. */
struct entry {
	uint64_t id;
	uint32_t role;
	uint32_t address_len;
};
_Static_assert(sizeof(struct entry) == 16, "as in doc/format.md");

uint32_t thmqi_members_voters(const struct thmqi_members *m)
{
	uint32_t i, n = 0;

	for (i = 0; i < m->count; i++)
		n += m->list[i].role == THMQI_MEMBER_VOTER;
	return n;
}

int thmqi_members_check(const struct thmqi_members *m)
{
	uint32_t i, k;

	if (!m->count || m->count > THMQI_MEMBERS_MAX || !thmqi_members_voters(m))
		return -EINVAL;
	for (i = 0; i < m->count; i++) {
		const struct thmqi_member *a = &m->list[i];

		if (!a->id || a->role > THMQI_MEMBER_VOTER || !a->address[0] ||
		    memchr(a->address, 0, sizeof(a->address)) == NULL)
			return -EINVAL;
		for (k = 0; k < i; k++)
			if (m->list[k].id == a->id || strcmp(m->list[k].address, a->address) == 0)
				return -EINVAL;
	}
	return 0;
}

static uint8_t *put(uint8_t *at, const struct thmqi_members *m)
{
	uint32_t i;

	for (i = 0; i < m->count; i++) {
		const struct thmqi_member *member = &m->list[i];
		const struct entry e = {.id = member->id,
					.role = member->role,
					.address_len = (uint32_t)strlen(member->address)};

		memcpy(at, &e, sizeof(e));
		at += sizeof(e);
		memset(at, 0, THMQI_ALIGN_UP(e.address_len, 8u));
		memcpy(at, member->address, e.address_len);
		at += THMQI_ALIGN_UP(e.address_len, 8u);
	}
	return at;
}

uint32_t thmqi_membership_encode(const struct thmqi_membership *m, void *ret)
{
	const struct head h = {.magic = MEMBERS_MAGIC,
			       .version = MEMBERS_VERSION,
			       .count = (uint8_t)m->members.count,
			       .previous_count =
				       (uint8_t)(m->previous_index ? m->previous.count : 0),
			       .previous_index = m->previous_index};
	uint8_t *at = ret;

	memcpy(at, &h, sizeof(h));
	at = put(at + sizeof(h), &m->members);
	if (h.previous_count)
		at = put(at, &m->previous);
	return (uint32_t)(at - (uint8_t *)ret);
}

static const uint8_t *get(const uint8_t *at, const uint8_t *end, uint32_t count,
			  struct thmqi_members *ret)
{
	struct entry e;
	uint32_t i;

	memset(ret, 0, sizeof(*ret));
	if (count > THMQI_MEMBERS_MAX)
		return NULL;
	for (i = 0; i < count; i++) {
		if ((size_t)(end - at) < sizeof(e))
			return NULL;
		memcpy(&e, at, sizeof(e));
		at += sizeof(e);
		if (e.address_len >= THMQI_ADDRESS_MAX ||
		    THMQI_ALIGN_UP(e.address_len, 8u) > (size_t)(end - at))
			return NULL;
		ret->list[i].id = e.id;
		ret->list[i].role = e.role;
		memcpy(ret->list[i].address, at, e.address_len);
		at += THMQI_ALIGN_UP(e.address_len, 8u);
	}
	ret->count = count;
	return thmqi_members_check(ret) == 0 ? at : NULL;
}

static int decode_single(const void *data, struct thmqi_membership *ret)
{
	memset(ret, 0, sizeof(*ret));
	memcpy(&ret->members.list[0].id, data, SINGLE_BYTES);
	ret->members.list[0].role = THMQI_MEMBER_VOTER;
	strcpy(ret->members.list[0].address, "-");
	ret->members.count = 1;
	return ret->members.list[0].id ? 0 : -THMQ_ECORRUPT;
}

int thmqi_membership_decode(const void *data, uint32_t len, struct thmqi_membership *ret)
{
	const uint8_t *at = data, *end = at + len;
	struct head h;

	if (len == SINGLE_BYTES)
		return decode_single(data, ret);
	if (len < sizeof(h))
		return -THMQ_ECORRUPT;
	memcpy(&h, at, sizeof(h));
	if (h.magic != MEMBERS_MAGIC)
		return -THMQ_ECORRUPT;
	if (h.version != MEMBERS_VERSION)
		return -THMQ_EVERSION;
	memset(ret, 0, sizeof(*ret));
	at = get(at + sizeof(h), end, h.count, &ret->members);
	if (at && h.previous_index)
		at = get(at, end, h.previous_count, &ret->previous);
	ret->previous_index = h.previous_index;
	return at == end ? 0 : -THMQ_ECORRUPT;
}
