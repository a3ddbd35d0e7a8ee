/* SPDX-License-Identifier: Apache-2.0 */
/*
 * configs.c - settings of topics, and of the broker: what a topic may be made with, DescribeConfigs, AlterConfigs, IncrementalAlterConfigs. What
 * this broker does whatever is asked is taken and told; what it does not know is refused.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"

/* ------------------------------------------------------------------ reading */

static bool to_number(struct text t, int64_t *ret)
{
	char copy[24], *end;

	if (!text_copy(t, copy, sizeof(copy)) || !*copy)
		return false;
	errno = 0;
	*ret = strtoll(copy, &end, 10);
	return !*end && !errno;
}

int settings_read(struct settings *w, struct text name, struct text value, const char **ret_why)
{
	/* what this broker does whatever is asked, or what does not matter here */
	static const char *const taken[] = {"min.cleanable.dirty.ratio",
					    "min.compaction.lag.ms",
					    "max.compaction.lag.ms",
					    "segment.bytes",
					    "segment.ms",
					    "min.insync.replicas",
					    "flush.messages",
					    "flush.ms",
					    "index.interval.bytes",
					    "segment.index.bytes",
					    "preallocate",
					    "segment.jitter.ms",
					    "file.delete.delay.ms",
					    "max.message.bytes"};
	int64_t n;
	uint32_t i;

	if (!value.data)
		return 0;
	if (text_is(name, "retention.ms") || text_is(name, "retention.bytes") ||
	    text_is(name, "delete.retention.ms")) {
		if (!to_number(value, &n) || n < -1 || n > INT64_MAX / MILLISECOND) {
			*ret_why = "retention is a number, or -1";
			return K_INVALID_CONFIG;
		}
		if (text_is(name, "delete.retention.ms"))
			w->tombstone_ns = n > 0 ? (uint64_t)n * MILLISECOND : 1;
		else if (text_is(name, "retention.ms"))
			w->retention_ns = n > 0 ? (uint64_t)n * MILLISECOND : n == 0 ? 1 : 0;
		else
			w->retention_bytes = n > 0 ? (uint64_t)n : n == 0 ? 1 : 0;
		w->what |= text_is(name, "delete.retention.ms") ? THMQ_ALTER_TOMBSTONE
			   : text_is(name, "retention.ms")      ? THMQ_ALTER_RETENTION_TIME
								: THMQ_ALTER_RETENTION_BYTES;
		return 0;
	}
	if (text_is(name, "cleanup.policy") &&
	    (text_is(value, "compact") || text_is(value, "compact,delete") ||
	     text_is(value, "delete,compact"))) {
		w->compact = w->policy = true;
		w->keeps = value.len == strlen("compact");
		return 0;
	}
	if (text_is(name, "cleanup.policy") && text_is(value, "delete")) {
		w->policy = true;
		return 0;
	}
	if ((text_is(name, "message.timestamp.type") && text_is(value, "CreateTime")) ||
	    (text_is(name, "compression.type") &&
	     (text_is(value, "producer") || text_is(value, "uncompressed"))))
		return 0;
	for (i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
		if (text_is(name, taken[i]))
			return 0;
	*ret_why = "this broker does not know one of the topic's settings, or not with this value";
	return K_INVALID_CONFIG;
}

/* ---------------------------------------------------------- DescribeConfigs */

enum config_source { SOURCE_TOPIC = 1, SOURCE_STATIC = 4, SOURCE_DEFAULT = 5 };
enum config_type { TYPE_BOOLEAN = 1, TYPE_STRING = 2, TYPE_INT = 3, TYPE_LONG = 5, TYPE_DOUBLE = 6, TYPE_LIST = 7 };

struct config {
	const char *name;
	char value[64];
	int8_t source, type;
	bool alters; /* AlterConfigs can set it to something else */
};

static void config_set(struct config *c, const char *name, int8_t type, int8_t source,
		       const char *format, ...) __attribute__((format(printf, 5, 6)));
static void config_set(struct config *c, const char *name, int8_t type, int8_t source,
		       const char *format, ...)
{
	va_list args;

	c->name = name;
	c->type = type;
	c->source = source;
	c->alters = false;
	va_start(args, format);
	vsnprintf(c->value, sizeof(c->value), format, args);
	va_end(args);
}

#define CONFIGS_MAX 32
/* What cannot be set, or is taken and means nothing: what this broker does, in Kafka's words. */
static const struct {
	const char *name, *value;
	int8_t type;
} fixed_of_topic[] = {{"message.timestamp.type", "CreateTime", TYPE_STRING},
		      {"compression.type", "uncompressed", TYPE_STRING},
		      {"min.insync.replicas", "1", TYPE_INT},
		      {"unclean.leader.election.enable", "false", TYPE_BOOLEAN},
		      {"flush.messages", "1", TYPE_LONG}, /* what is acknowledged is on the medium */
		      {"flush.ms", "0", TYPE_LONG},
		      {"preallocate", "true", TYPE_BOOLEAN},
		      {"segment.bytes", "1073741824", TYPE_INT},
		      {"segment.ms", "604800000", TYPE_LONG},
		      {"segment.jitter.ms", "0", TYPE_LONG},
		      {"segment.index.bytes", "10485760", TYPE_INT},
		      {"index.interval.bytes", "4096", TYPE_INT},
		      {"file.delete.delay.ms", "0", TYPE_LONG},
		      {"min.cleanable.dirty.ratio", "0.5", TYPE_DOUBLE},
		      {"min.compaction.lag.ms", "0", TYPE_LONG},
		      {"max.compaction.lag.ms", "9223372036854775807", TYPE_LONG}};

static int configs_of_topic(const struct topic *t, struct config *c)
{
	uint32_t i;
	int n = 0;

	config_set(&c[n++], "cleanup.policy", TYPE_LIST,
		   t->compacted ? SOURCE_TOPIC : SOURCE_DEFAULT, "%s",
		   !t->compacted                           ? "delete"
		   : t->retention_ns || t->retention_bytes ? "compact,delete"
							   : "compact");
	config_set(&c[n++], "retention.ms", TYPE_LONG,
		   t->retention_ns ? SOURCE_TOPIC : SOURCE_DEFAULT, "%lld",
		   t->retention_ns ? (long long)(t->retention_ns / MILLISECOND) : -1ll);
	c[n - 1].alters = true;
	config_set(&c[n++], "retention.bytes", TYPE_LONG,
		   t->retention_bytes ? SOURCE_TOPIC : SOURCE_DEFAULT, "%lld",
		   t->retention_bytes ? (long long)t->retention_bytes : -1ll);
	c[n - 1].alters = true;
	config_set(&c[n++], "max.message.bytes", TYPE_INT, SOURCE_DEFAULT, "%u",
		   t->len_max ? t->len_max : BATCH_BYTES_MAX / 4);
	config_set(&c[n++], "delete.retention.ms", TYPE_LONG, t->compacted ? SOURCE_TOPIC : SOURCE_DEFAULT, "%lld",
		   (long long)((t->compacted ? t->tombstone_ns : 86400 * (uint64_t)SECOND) / MILLISECOND));
	c[n - 1].alters = t->compacted;
	for (i = 0; i < sizeof(fixed_of_topic) / sizeof(fixed_of_topic[0]); i++)
		config_set(&c[n++], fixed_of_topic[i].name, fixed_of_topic[i].type, SOURCE_DEFAULT, "%s", fixed_of_topic[i].value);
	return n;
}

static int configs_of_broker(const struct server *s, struct config *c)
{
	int n = 0;

	config_set(&c[n++], "broker.id", TYPE_INT, SOURCE_STATIC, "%d", s->o.node_id);
	config_set(&c[n++], "num.partitions", TYPE_INT, SOURCE_STATIC, "%d",
		   s->o.default_partitions);
	config_set(&c[n++], "auto.create.topics.enable", TYPE_BOOLEAN, SOURCE_STATIC, "%s",
		   s->o.auto_create ? "true" : "false");
	config_set(&c[n++], "default.replication.factor", TYPE_INT, SOURCE_DEFAULT, "1");
	config_set(&c[n++], "max.connections", TYPE_INT, SOURCE_STATIC, "%u", s->o.connection_max);
	config_set(&c[n++], "socket.request.max.bytes", TYPE_INT, SOURCE_DEFAULT, "%u", FRAME_MAX);
	config_set(&c[n++], "fetch.max.bytes", TYPE_INT, SOURCE_DEFAULT, "%u", FETCH_BYTES_MAX);
	config_set(&c[n++], "offsets.retention.minutes", TYPE_INT, SOURCE_DEFAULT, "2147483647"); /* for ever */
	config_set(&c[n++], "delete.topic.enable", TYPE_BOOLEAN, SOURCE_DEFAULT, "true");
	return n;
}

static void out_config(struct request *r, const struct config *c, bool synonyms)
{
	struct out *out = &r->out;

	out_string(out, c->name);
	out_string(out, c->value);
	out_bool(out, !c->alters);
	if (r->version == 0)
		out_bool(out, c->source == SOURCE_DEFAULT);
	else
		out_i8(out, c->source);
	out_bool(out, false);
	if (r->version >= 1)
		out_array(out, synonyms);
	if (synonyms) { /* where the value is from: the setting itself, which nothing else stands behind */
		out_string(out, c->name);
		out_string(out, c->value);
		out_i8(out, c->source);
		out_tags(out);
	}
	if (r->version >= 3) {
		out_i8(out, c->type);
		out_string(out, NULL);
	}
	out_tags(out);
}

#define RESOURCE_TOPIC 2
#define RESOURCE_BROKER 4

/* As it is now: whoever speaks to the library may have altered it. */
static int topic_now(struct server *s, struct text name, struct topic **ret)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	int error = store_topic(s, name, ret);

	if (error)
		return error;
	error = store_error(thmq_topic_describe(s->control, (*ret)->name, &info));
	if (error)
		return error;
	(*ret)->retention_ns = info.retention_ns;
	(*ret)->retention_bytes = info.retention_bytes;
	(*ret)->tombstone_ns = info.tombstone_ns;
	return 0;
}

static void describe_one(struct request *r, bool synonyms)
{
	struct config configs[CONFIGS_MAX];
	struct in *in = &r->in, names;
	struct out *out = &r->out;
	int8_t type = in_i8(in);
	struct text name = in_text(in);
	int32_t wanted = in_array(in, 2), k;
	bool chosen[CONFIGS_MAX] = {false};
	int error = 0, i, n = 0, shown = 0;
	struct topic *t;

	names = *in;
	for (k = 0; k < wanted && !in->bad; k++)
		in_text(in);
	in_tags(in);
	if (in->bad)
		return;
	if (type == RESOURCE_TOPIC) {
		error = topic_now(r->server, name, &t);
		n = error ? 0 : configs_of_topic(t, configs);
	} else if (type == RESOURCE_BROKER) {
		n = configs_of_broker(r->server, configs);
	} else {
		error = K_INVALID_REQUEST;
	}
	for (i = 0; i < n; i++)
		chosen[i] = wanted < 0;
	for (k = 0; k < wanted; k++) {
		struct text one = in_text(&names);

		for (i = 0; i < n; i++)
			chosen[i] |= text_is(one, configs[i].name);
	}
	for (i = 0; i < n; i++)
		shown += chosen[i];
	out_i16(out, (int16_t)error);
	out_string(out, NULL);
	out_i8(out, type);
	out_text(out, name.data ? name : text_of(""));
	out_array(out, shown);
	for (i = 0; i < n; i++)
		if (chosen[i])
			out_config(r, &configs[i], synonyms);
	out_tags(out);
}

void describe_configs_run(struct request *r)
{
	struct in *in = &r->in;
	struct out *out = &r->out;
	int32_t i, k, count = in_array(in, 4);
	struct in again = *in;
	bool synonyms = false;

	for (i = 0; i < count && !in->bad; i++) {
		in_i8(in);
		in_text(in);
		for (k = in_array(in, 2); k > 0 && !in->bad; k--)
			in_text(in);
		in_tags(in);
	}
	if (r->version >= 1)
		synonyms = in_bool(in);
	if (r->version >= 3)
		in_bool(in); /* texts about the settings: there are none */
	in_tags(in);
	again.bad = in->bad;
	*in = again;
	out_i32(out, 0);
	out_array(out, count > 0 ? count : 0);
	for (i = 0; i < count && !in->bad && !out->failed; i++)
		describe_one(r, synonyms);
	if (in->bad)
		request_fail(r);
	out_tags(out);
	request_done(r);
}

/* ------------------------------------ AlterConfigs, IncrementalAlterConfigs */

enum alter_operation { ALTER_SET, ALTER_DELETE };

/* A setting that is not named any more is as it was when the topic was made without it. */
static int alter_delete(struct settings *w, struct text name, const char **ret_why)
{
	struct settings known = {.what = 0};
	int error = settings_read(&known, name, text_of("-1"), ret_why);

	if (text_is(name, "compression.type") || text_is(name, "message.timestamp.type"))
		return 0;
	if (text_is(name, "cleanup.policy")) {
		*ret_why = "it is fixed when the topic is made";
		return K_INVALID_CONFIG;
	}
	if (known.what & THMQ_ALTER_RETENTION_TIME)
		w->retention_ns = 0;
	if (known.what & THMQ_ALTER_RETENTION_BYTES)
		w->retention_bytes = 0;
	if (known.what & THMQ_ALTER_TOMBSTONE)
		w->tombstone_ns = 0;
	w->what |= known.what;
	return error;
}

static int alter(struct server *s, struct text name, const struct settings *w, bool only_look, const char **ret_why)
{
	struct topic *t;
	uint32_t what = w->what;
	int error = topic_now(s, name, &t), rc;

	if (error)
		return error;
	if (text_is(name, OFFSETS_TOPIC) || text_is(name, TRANSACTIONS_TOPIC))
		return K_INVALID_TOPIC;
	if (w->policy && (w->compact != t->compacted || (w->keeps && (t->retention_ns || t->retention_bytes)))) {
		*ret_why = "cleanup.policy is fixed when the topic is made";
		return K_INVALID_CONFIG;
	}
	if (!t->compacted)
		what &= ~THMQ_ALTER_TOMBSTONE; /* it means nothing there */
	if (only_look || !what)
		return 0;
	rc = thmq_topic_alter(s->control, t->name,
			      THMQ_TOPIC_OPTS(.retention_ns = w->retention_ns, .retention_bytes = w->retention_bytes, .tombstone_ns = w->tombstone_ns),
			      what);
	if (rc == -EINVAL)
		*ret_why = "such a topic cannot have that";
	return rc == -EINVAL ? K_INVALID_CONFIG : store_error(rc);
}

/* One topic, and its new settings; in the older request what is not named is deleted. */
static void alter_one(struct request *r, bool incremental, bool read_only, bool only_look)
{
	struct settings w = {.what = incremental ? 0 : THMQ_ALTER_RETENTION_TIME | THMQ_ALTER_RETENTION_BYTES | THMQ_ALTER_TOMBSTONE};
	struct in *in = &r->in;
	int8_t type = in_i8(in), operation = ALTER_SET;
	struct text name = in_text(in);
	const char *why = type == RESOURCE_TOPIC ? NULL : "settings of topics alone can be altered";
	int32_t count;
	int error = type == RESOURCE_TOPIC ? 0 : K_INVALID_REQUEST;

	for (count = in_array(in, 3); count > 0 && !in->bad; count--) {
		struct text setting = in_text(in), value;

		if (incremental)
			operation = in_i8(in);
		value = in_text(in);
		in_tags(in);
		if (error)
			continue;
		if (operation == ALTER_SET) {
			error = value.data ? settings_read(&w, setting, value, &why) : K_INVALID_CONFIG;
		} else if (operation == ALTER_DELETE) {
			error = alter_delete(&w, setting, &why);
		} else { /* to add to a list, or take away from it */
			error = K_INVALID_CONFIG;
			why = "no setting is a list that can be altered";
		}
	}
	in_tags(in);
	if (read_only || in->bad)
		return;
	if (!error && request_is_late(r, MANAGE_NS))
		error = K_REQUEST_TIMED_OUT;
	if (!error)
		error = alter(r->server, name, &w, only_look, &why);
	out_i16(&r->out, (int16_t)error);
	out_string(&r->out, why);
	out_i8(&r->out, type);
	out_text(&r->out, name.data ? name : text_of(""));
	out_tags(&r->out);
}

static void alter_run(struct request *r, bool incremental)
{
	struct in *in = &r->in;
	int32_t i, count = in_array(in, 4);
	struct in again = *in;
	bool only_look;

	for (i = 0; i < count && !in->bad; i++)
		alter_one(r, incremental, true, false);
	only_look = in_bool(in);
	in_tags(in);
	if (in->bad) {
		request_fail(r);
		request_done(r);
		return;
	}
	*in = again;
	out_i32(&r->out, 0);
	out_array(&r->out, count > 0 ? count : 0);
	for (i = 0; i < count; i++)
		alter_one(r, incremental, false, only_look);
	out_tags(&r->out);
	request_done(r);
}

void alter_configs_run(struct request *r)
{
	alter_run(r, false);
}

void incremental_alter_configs_run(struct request *r)
{
	alter_run(r, true);
}
