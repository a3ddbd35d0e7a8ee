/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.c - the one table of errors: number, name, text, class; and the calling thread's error text.
 */
#include <stdio.h>

#include "base/base.h"

struct entry {
	int error;
	int class;
	const char *name;
	const char *text;
};

static const struct entry table[] = {
	{0, THMQ_CLASS_OK, "OK", "success"},
	{THMQ_ECORRUPT, THMQ_CLASS_ENVIRONMENT, "THMQ_ECORRUPT", "stored bytes fail their check"},
	{THMQ_ENOTLEADER, THMQ_CLASS_RETRY, "THMQ_ENOTLEADER", "this copy does not lead the shard"},
	{THMQ_EFENCED, THMQ_CLASS_HANDLE, "THMQ_EFENCED", "a newer owner has taken over"},
	{THMQ_EOFFSETRANGE, THMQ_CLASS_CALLER, "THMQ_EOFFSETRANGE",
	 "the offset is outside what the partition holds"},
	{THMQ_EVERSION, THMQ_CLASS_ENVIRONMENT, "THMQ_EVERSION",
	 "a format or protocol version not spoken here"},
	{THMQ_ENOTOPIC, THMQ_CLASS_CALLER, "THMQ_ENOTOPIC", "no such topic"},
	{THMQ_ENOPARTITION, THMQ_CLASS_CALLER, "THMQ_ENOPARTITION",
	 "no such partition in the topic"},
	{THMQ_EFAILED, THMQ_CLASS_ENVIRONMENT, "THMQ_EFAILED",
	 "the shard failed on a device error and serves reads only"},
	{THMQ_ECONFLICT, THMQ_CLASS_CALLER, "THMQ_ECONFLICT",
	 "another offset is there than the one expected"},
	{THMQ_ENOQUORUM, THMQ_CLASS_RETRY, "THMQ_ENOQUORUM",
	 "no majority of the copies is there: what is committed can be read, and nothing stored"},
	{EAGAIN, THMQ_CLASS_BACKPRESSURE, "EAGAIN", "full for now: poll and try again"},
	{ENOBUFS, THMQ_CLASS_BACKPRESSURE, "ENOBUFS",
	 "no buffers left: release some and try again"},
	{EBUSY, THMQ_CLASS_RETRY, "EBUSY", "in use by another"},
	{EINTR, THMQ_CLASS_RETRY, "EINTR", "interrupted"},
	{ETIMEDOUT, THMQ_CLASS_RETRY, "ETIMEDOUT", "not done within the time"},
	{ECONNREFUSED, THMQ_CLASS_RETRY, "ECONNREFUSED", "nobody listens there"},
	{ECONNRESET, THMQ_CLASS_RETRY, "ECONNRESET", "the connection was lost"},
	{ESTALE, THMQ_CLASS_HANDLE, "ESTALE", "another broker, with other data, answers there"},
	{ENOTUNIQ, THMQ_CLASS_ENVIRONMENT, "ENOTUNIQ",
	 "its directory is not the one that its number had before, or it is of another cluster"},
	{EREMCHG, THMQ_CLASS_ENVIRONMENT, "EREMCHG",
	 "it was given another list of brokers: those that begin together are all given the same"},
	{EHOSTUNREACH, THMQ_CLASS_RETRY, "EHOSTUNREACH", "no such host, or no way to it"},
	{EPROTO, THMQ_CLASS_ENVIRONMENT, "EPROTO", "the other side does not speak as it should"},
	{EBADMSG, THMQ_CLASS_RETRY, "EBADMSG", "what came is not what was sent"},
	{ENOKEY, THMQ_CLASS_CALLER, "ENOKEY", "a certificate, or TLS at all, is wanted"},
	{EKEYREJECTED, THMQ_CLASS_ENVIRONMENT, "EKEYREJECTED",
	 "the other side's certificate is not to be believed"},
	{EKEYEXPIRED, THMQ_CLASS_ENVIRONMENT, "EKEYEXPIRED",
	 "the other side's certificate is not valid at this time"},
	{EKEYREVOKED, THMQ_CLASS_ENVIRONMENT, "EKEYREVOKED",
	 "the other side's certificate was revoked"},
	{EADDRINUSE, THMQ_CLASS_CALLER, "EADDRINUSE", "another socket has this address and port"},
	{EADDRNOTAVAIL, THMQ_CLASS_CALLER, "EADDRNOTAVAIL", "the machine has no such address"},
	{ESHUTDOWN, THMQ_CLASS_HANDLE, "ESHUTDOWN", "the other side is closed"},
	{ECANCELED, THMQ_CLASS_HANDLE, "ECANCELED", "it was aborted"},
	{EALREADY, THMQ_CLASS_CALLER, "EALREADY", "it is done already, and otherwise"},
	{EBADF, THMQ_CLASS_HANDLE, "EBADF", "not an open handle"},
	{EINVAL, THMQ_CLASS_CALLER, "EINVAL", "invalid argument or closed handle"},
	{E2BIG, THMQ_CLASS_CALLER, "E2BIG",
	 "options of a newer version that this library does not know"},
	{EMSGSIZE, THMQ_CLASS_CALLER, "EMSGSIZE", "message too large"},
	{ENAMETOOLONG, THMQ_CLASS_CALLER, "ENAMETOOLONG", "name too long"},
	{EEXIST, THMQ_CLASS_CALLER, "EEXIST", "exists already"},
	{ENOENT, THMQ_CLASS_CALLER, "ENOENT", "not found"},
	{ENOTDIR, THMQ_CLASS_CALLER, "ENOTDIR", "not a directory"},
	{ENOTEMPTY, THMQ_CLASS_CALLER, "ENOTEMPTY", "directory holds other things"},
	{EPERM, THMQ_CLASS_CALLER, "EPERM", "not allowed from this thread or for this user"},
	{EDEADLK, THMQ_CLASS_CALLER, "EDEADLK", "nobody drives the core that would have to answer, or it is in the callback that asks"},
	{ENOTSUP, THMQ_CLASS_CALLER, "ENOTSUP", "not supported here"},
	{EPROTONOSUPPORT, THMQ_CLASS_CALLER, "EPROTONOSUPPORT",
	 "no such transport in this library"},
	{EMFILE, THMQ_CLASS_CALLER, "EMFILE", "too many open"},
	{EACCES, THMQ_CLASS_ENVIRONMENT, "EACCES", "permission denied"},
	{EROFS, THMQ_CLASS_ENVIRONMENT, "EROFS", "read-only file system"},
	{ENOSPC, THMQ_CLASS_ENVIRONMENT, "ENOSPC", "no space left on the device"},
	{EDQUOT, THMQ_CLASS_ENVIRONMENT, "EDQUOT", "disk quota exceeded"},
	{ENOMEM, THMQ_CLASS_ENVIRONMENT, "ENOMEM", "out of memory"},
	{EIO, THMQ_CLASS_ENVIRONMENT, "EIO", "input/output error"},
	{ENFILE, THMQ_CLASS_ENVIRONMENT, "ENFILE", "file table is full"},
};

static const struct entry *find(int error)
{
	unsigned int number = error < 0 ? 0u - (unsigned int)error : (unsigned int)error;
	size_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(table); i++)
		if ((unsigned int)table[i].error == number)
			return &table[i];
	return NULL;
}

static int positive(int error)
{
	return error == INT32_MIN ? INT32_MAX : error < 0 ? -error : error;
}

const char *thmq_strerror(int error)
{
	const struct entry *e = find(error);
	const char *text = e ? e->text : strerrordesc_np(positive(error));

	return text ? text : "unknown error";
}

const char *thmq_errname(int error)
{
	const struct entry *e = find(error);
	const char *name = e ? e->name : strerrorname_np(positive(error));

	return name ? name : "EUNKNOWN";
}

int thmq_errclass(int error)
{
	const struct entry *e = find(error);

	return e ? e->class : THMQ_CLASS_ENVIRONMENT;
}

static _Thread_local char last_text[512];
static _Thread_local uint32_t text_count;

const char *thmq_errmsg(void)
{
	return last_text;
}

int thmqi_fail(int error, const char *format, ...)
{
	char text[sizeof(last_text)]; /* the arguments may lie in the old text */
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	memcpy(last_text, text, sizeof(text));
	text_count++;
	return error;
}

uint32_t thmqi_fail_count(void)
{
	return text_count;
}
