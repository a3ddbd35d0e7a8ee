/* SPDX-License-Identifier: Apache-2.0 */
/* url.c - shm:///path and shm://@name, and the socket addresses that they mean. Knows no connection. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "shm.h"

#define MODE_DEFAULT 0600u
#define FILE_MAX 64 /* of a name in a directory whose path is too long for a socket */

static int bad(const char *url, const char *why)
{
	return thmqi_fail(-EINVAL, "%.64s: %s; write shm:///path, shm://path or shm://@name", url,
			  why);
}

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* %2C is a comma, %3F a question mark, %25 a percent sign: these mean something in a list of URLs. */
static int decode(const char *url, const char *from, const char *end, struct shm_place *p)
{
	size_t n = 0;

	while (from < end) {
		int c = (unsigned char)*from++;

		if (c == '%') {
			if (end - from < 2 || hex(from[0]) < 0 || hex(from[1]) < 0)
				return bad(url, "two hexadecimal digits stand behind a %");
			c = hex(from[0]) * 16 + hex(from[1]);
			from += 2;
		}
		if (c == 0)
			return bad(url, "that is no path");
		if (n + 1 >= sizeof(p->path))
			return thmqi_fail(-ENAMETOOLONG, "%.64s…: the path has more than %zu bytes",
					  url, sizeof(p->path) - 1);
		p->path[n++] = (char)c;
	}
	p->path[n] = 0;
	return 0;
}

/* mode=660, in octal digits, is all that there is. */
static int parse_options(const char *url, const char *at, struct shm_place *p)
{
	char *end;
	unsigned long mode;

	if (strncmp(at, "mode=", 5) != 0)
		return bad(url, "behind ? only mode=660 and the like may stand");
	mode = strtoul(at + 5, &end, 8);
	if (end == at + 5 || *end || mode > 0777)
		return bad(url, "that is no file mode");
	p->mode = (uint32_t)mode;
	return 0;
}

int thmqi_shm_parse(const char *url, struct shm_place *ret)
{
	const char *at = strstr(url, "://") + 3, *end = strchrnul(at, '?');
	int rc;

	memset(ret, 0, sizeof(*ret));
	ret->mode = MODE_DEFAULT;
	ret->is_name = *at == '@';
	at += ret->is_name;
	rc = decode(url, at, end, ret);
	if (!rc && *end)
		rc = parse_options(url, end + 1, ret);
	if (rc)
		return rc;
	if (!ret->path[0] || (!ret->is_name && ret->path[strlen(ret->path) - 1] == '/'))
		return bad(url, "the path is missing");
	if (ret->is_name && strlen(ret->path) > sizeof(((struct sockaddr_un *)0)->sun_path) - 1)
		return thmqi_fail(-ENAMETOOLONG, "%.64s…: such a name has at most %zu bytes", url,
				  sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	return 0;
}

int thmqi_shm_check(const char *url)
{
	struct shm_place p;

	return thmqi_shm_parse(url, &p);
}

int thmqi_shm_address(const struct shm_place *place, struct sockaddr_un *ret, socklen_t *ret_len,
		      int *ret_dir_fd)
{
	const char *slash = strrchr(place->path, '/'), *file = slash ? slash + 1 : place->path;
	char dir[sizeof(place->path)];
	size_t len = strlen(place->path);

	memset(ret, 0, sizeof(*ret));
	ret->sun_family = AF_UNIX;
	*ret_dir_fd = -1;
	if (place->is_name) { /* a NUL and the name, and nothing behind it */
		memcpy(ret->sun_path + 1, place->path, len);
		*ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len);
		return 0;
	}
	*ret_len = sizeof(*ret);
	if (len < sizeof(ret->sun_path)) {
		memcpy(ret->sun_path, place->path, len + 1);
		return 0;
	}
	if (!slash || strlen(file) > FILE_MAX)
		return -ENAMETOOLONG;
	memcpy(dir, place->path, (size_t)(file - place->path));
	dir[file - place->path] = 0;
	*ret_dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*ret_dir_fd < 0)
		return -errno;
	snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%.*s", *ret_dir_fd, FILE_MAX, file);
	return 0;
}
