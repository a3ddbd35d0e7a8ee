/* SPDX-License-Identifier: Apache-2.0 */
/* request.c - the public face of requests and their answers: checks, then calls down. */
#include "api/api.h"
#include "client/client.h"

#define is_session(s) thmqi_likely(thmqi_api_is_session(s))
#define is_producer(p) thmqi_likely(THMQI_API_IS(p, THMQI_HANDLE_PRODUCER, thmqi_client_producer_env))

_Static_assert(sizeof(struct thmq_response) == 120, "public layout");

/* Options of another version of the library are copied; ours are used in place. */
static int message_opts(const struct thmq_message_opts **opts, struct thmq_message_opts *copy)
{
	int rc;

	if (thmqi_likely(!*opts || (*opts)->size == sizeof(**opts)))
		return 0;
	rc = thmqi_opts_copy(copy, sizeof(*copy), *opts);
	*opts = copy;
	return rc;
}

static int check(const void *data, uint32_t len, const struct thmq_message_opts **opts, struct thmq_message_opts *copy)
{
	int rc = !data && len ? -EINVAL : message_opts(opts, copy);

	return rc || !*opts || (*opts)->headers || !(*opts)->header_count ? rc : -EINVAL;
}

int64_t thmq_request(struct thmq_producer *producer, const void *data, uint32_t len, const struct thmq_message_opts *opts,
		     uint64_t timeout_ns, void *cookie)
{
	struct thmq_message_opts copy;
	int rc = is_producer(producer) ? check(data, len, &opts, &copy) : -EINVAL;

	return rc ? rc : thmqi_client_request(producer, data, len, opts, timeout_ns, cookie);
}

int thmq_call(struct thmq_producer *producer, const void *data, uint32_t len, const struct thmq_message_opts *opts,
	      uint64_t timeout_ns, struct thmq_response *ret_response)
{
	struct thmq_message_opts copy;
	int rc;

	if (!is_producer(producer) || !ret_response)
		return thmqi_fail(-EINVAL, "call: not an open producer, or no place for the answer");
	rc = check(data, len, &opts, &copy);
	return rc ? rc : thmqi_client_call(producer, data, len, opts, timeout_ns, ret_response);
}

int thmq_responses(struct thmq_session *session, struct thmq_response *ret_responses, uint32_t max)
{
	if (!is_session(session) || (!ret_responses && max))
		return -EINVAL;
	return thmqi_client_responses(session, ret_responses, THMQI_MIN(max, (uint32_t)INT32_MAX));
}

int thmq_response_release(struct thmq_session *session, struct thmq_response *responses, uint32_t count)
{
	if (!is_session(session) || (!responses && count))
		return -EINVAL;
	return thmqi_client_response_release(session, responses, count);
}

int64_t thmq_reply(struct thmq_session *session, const struct thmq_message *request, const void *data, uint32_t len,
		   const struct thmq_message_opts *opts)
{
	struct thmq_message_opts copy;
	int rc = is_session(session) && request ? check(data, len, &opts, &copy) : -EINVAL;

	return rc ? rc : thmqi_client_reply(session, request, data, len, opts);
}
