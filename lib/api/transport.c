/* SPDX-License-Identifier: Apache-2.0 */
/* transport.c - the public face of transports of one's own, interceptors and faults: checks, then calls down. */
#include <thundermq/transport.h>

#include "api/api.h"

#define SCHEME_MAX 32u
#define MILLION 1000000u

static int bad(const char *what)
{
	return thmqi_fail(-EINVAL, "%s", what);
}

static bool scheme_ok(const char *s)
{
	size_t i, len = s ? strlen(s) : 0;

	for (i = 0; i < len; i++)
		if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '+' ||
		      s[i] == '.' || s[i] == '-'))
			return false;
	return len && len <= SCHEME_MAX;
}

int thmq_transport_register(struct thmq_env *env, const struct thmq_transport *transport)
{
	struct thmq_transport ops;
	int rc;

	if (!thmqi_api_is_env(env))
		return thmqi_api_not_open("environment");
	if (!transport)
		return bad("register a transport: there is none");
	rc = thmqi_opts_copy(&ops, sizeof(ops), transport);
	if (rc)
		return thmqi_fail(
			rc,
			"register a transport: the table: %s", thmqi_opts_why(rc));
	if (!scheme_ok(ops.scheme) || !ops.connect || ops.flags)
		return bad("register a transport: it has no connect, unknown flags, or a scheme "
			   "that is not of a-z 0-9 + . -");
	rc = thmqi_transport_register(thmqi_api_of(env)->transport, &ops);
	if (rc == -EEXIST)
		return thmqi_fail(rc, "register a transport: %s:// is there already", ops.scheme);
	return rc ? thmqi_fail(rc, "register %s://: %s", ops.scheme, thmq_strerror(rc)) : 0;
}

int thmq_transport_intercept(struct thmq_env *env, const struct thmq_interceptor *interceptor)
{
	struct thmq_interceptor ops;
	int rc;

	if (!thmqi_api_is_env(env))
		return thmqi_api_not_open("environment");
	if (!interceptor)
		return bad("intercept: there is no interceptor");
	rc = thmqi_opts_copy(&ops, sizeof(ops), interceptor);
	if (rc)
		return thmqi_fail(rc, "intercept: the table: %s", thmqi_opts_why(rc));
	if (ops.flags)
		return bad("intercept: unknown flags");
	rc = thmqi_transport_intercept(thmqi_api_of(env)->transport, &ops);
	return rc ? thmqi_fail(rc, "intercept: an environment has four interceptors at most") : 0;
}

/* ------------------------------------------------------------------- faults */

void (thmq_fault_opts_init)(struct thmq_fault_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

static int fault_opts(struct thmq_fault_opts *o, const struct thmq_fault_opts *opts)
{
	int rc = thmqi_opts_copy(o, sizeof(*o), opts);

	if (rc)
		return thmqi_fail(rc, "faults: options: %s", thmqi_opts_why(rc));
	if (o->flags & ~(THMQ_FAULT_SESSION | THMQ_FAULT_BROKER) || o->reserved)
		return bad("faults: unknown flags");
	if (o->lose_ppm > MILLION || o->corrupt_ppm > MILLION || o->delay_ppm > MILLION ||
	    o->stall_ppm > MILLION || o->short_ppm > MILLION)
		return bad("faults: a chance is one of a million");
	return 0;
}

int thmq_fault_open(struct thmq_env *env, const struct thmq_fault_opts *opts,
		    struct thmq_fault **ret_fault)
{
	struct thmq_fault_opts o;
	int rc;

	if (!thmqi_api_is_env(env))
		return thmqi_api_not_open("environment");
	if (!ret_fault)
		return bad("faults: no place for the handle");
	rc = fault_opts(&o, opts);
	if (rc)
		return rc;
	rc = thmqi_fault_open(thmqi_api_of(env)->transport, &o, ret_fault);
	return rc ? thmqi_fail(rc, "faults: %s", thmq_strerror(rc)) : 0;
}

int thmq_fault_set(struct thmq_fault *fault, const struct thmq_fault_opts *opts)
{
	struct thmq_fault_opts o;
	int rc = fault_opts(&o, opts);

	if (rc)
		return rc;
	if (!fault)
		return bad("faults: none were opened");
	thmqi_fault_set(fault, &o);
	return 0;
}

int thmq_fault_stats(struct thmq_fault *fault, struct thmq_fault_stats *ret_stats)
{
	struct thmq_fault_stats stats;
	uint32_t size;

	if (!fault || !ret_stats || thmqi_size_is_wrong(ret_stats->size))
		return bad("faults: none were opened, or no size");
	thmqi_fault_stats(fault, &stats);
	size = ret_stats->size;
	memset(ret_stats, 0, size);
	memcpy(ret_stats, &stats, THMQI_MIN(size, (uint32_t)sizeof(stats)));
	ret_stats->size = size;
	return 0;
}
