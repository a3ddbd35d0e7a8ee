/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_abi_test.c - what a compiled program has of us: sizes, offsets and numbers. A struct may grow at its end, then its
 * line here changes; nothing else here ever does. That no struct has implicit padding is checked by tests/abi/headers.sh,
 * that compiles the headers with -Wpadded.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <thundermq/access.h>
#include <thundermq/log.h>
#include <thundermq/stats.h>
#include <thundermq/forecast.h>
#include <thundermq/pool.h>
#include <thundermq/reactor.h>
#include <thundermq/transport.h>
#include <thundermq/thundermq.h>

TestSuite(api_abi, .timeout = 30);

#define STRUCT(type, size, last, at)                                                               \
	{                                                                                          \
#type, size, sizeof(struct type), #last, at, offsetof(struct type, last),          \
			offsetof(struct type, last) + sizeof(((struct type *)0)->last)             \
	}

static const struct {
	const char *name;
	size_t size, size_now;
	const char *last;
	size_t at, at_now, end_now;
} structs[] = {
	/* options and statistics: may grow */
	STRUCT(thmq_env_opts, 80, wake_latency_ns, 76),
	STRUCT(thmq_env_stats, 136, reserved, 132),
	STRUCT(thmq_place, 32, error, 28),
	STRUCT(thmq_machine, 64, path_device, 32),
	STRUCT(thmq_broker_opts, 264, cluster_tls, 256),
	STRUCT(thmq_broker_stats, 128, refused_count, 120),
	STRUCT(thmq_session_opts, 56, reconnect_ns, 48),
	STRUCT(thmq_tls_opts, 88, cipher_suites, 80),
	STRUCT(thmq_topic_opts, 72, reserved, 68),
	STRUCT(thmq_topic_info, 352, reserved, 348),
	STRUCT(thmq_limits, 40, consume_messages, 32),
	STRUCT(thmq_access, 40, reserved, 36),
	STRUCT(thmq_stats_info, 152, name, 88),
	STRUCT(thmq_stats_value, 120, p999, 112),
	STRUCT(thmq_partition_info, 64, due_ns, 56),
	STRUCT(thmq_key_info, 24, time_ns, 16),
	STRUCT(thmq_producer_opts, 40, compress_level, 36),
	STRUCT(thmq_message_opts, 112, txn, 104),
	STRUCT(thmq_txn_opts, 40, reserved, 36),
	STRUCT(thmq_txn_info, 552, identity, 296),
	STRUCT(thmq_consumer_opts, 120, near_cpu, 116),
	STRUCT(thmq_group_info, 296, reserved, 292),
	STRUCT(thmq_group_member, 96, instance, 32),
	STRUCT(thmq_log_events, 96, progress, 88),
	STRUCT(thmq_log_opts, 136, reserved2, 132),
	STRUCT(thmq_log_stats, 224, compacted_messages, 216),
	STRUCT(thmq_log_visitor, 56, loss, 48),
	STRUCT(thmq_log_repair_opts, 16, quarantine_dir, 8),
	STRUCT(thmq_core_stats, 648, wake_latency_ns, 644),
	STRUCT(thmq_poller_ops, 56, name, 48),
	STRUCT(thmq_data_name, 416, added, 288),
	STRUCT(thmq_slabs_opts, 24, reserved, 20),
	STRUCT(thmq_slabs_stats, 80, registration_ns_max, 72),
	STRUCT(thmq_pool_opts, 72, ctx, 64),
	STRUCT(thmq_pool_stats, 240, fragmentation, 236),
	STRUCT(thmq_forecast_opts, 64, noise, 56),
	STRUCT(thmq_forecast_stats, 224, ratio, 160),
	STRUCT(thmq_transport, 80, close, 72),
	STRUCT(thmq_interceptor, 64, received, 56),
	STRUCT(thmq_connection, 24, scheme, 16),
	STRUCT(thmq_fault_opts, 72, reserved, 68),
	STRUCT(thmq_fault_stats, 72, shortened, 64),
	/* arrays of the caller's, and what is stored: never change */
	STRUCT(thmq_slab, 32, pages, 28),
	STRUCT(thmq_registrar, 40, internal, 32),
	STRUCT(thmq_pool_leak, 16, bytes, 8),
	STRUCT(thmq_buf, 64, reserved, 63),
	STRUCT(thmq_slice, 24, reserved, 20),
	STRUCT(thmq_header, 24, type, 20),
	STRUCT(thmq_claim, 48, internal, 16),
	STRUCT(thmq_message, 88, span, 84),
	STRUCT(thmq_event, 80, reserved, 64),
	STRUCT(thmq_run_header, 96, header_crc, 92),
	STRUCT(thmq_record, 16, flags, 15),
	STRUCT(thmq_log_producer, 24, partition, 20),
	STRUCT(thmq_log_run, 40, term, 32),
	STRUCT(thmq_log_view, 56, internal, 40),
	STRUCT(thmq_task, 24, internal, 8),
	STRUCT(thmq_timer, 64, internal, 16),
	STRUCT(thmq_log_batch, 56, version, 54),
	STRUCT(thmq_log_finding, 24, text, 16),
	STRUCT(thmq_log_step, 32, text, 24),
	STRUCT(thmq_log_loss, 72, messages, 64),
};

Test(api_abi, sizes_and_last_offsets_are_those_of_the_release)
{
	for (size_t i = 0; i < sizeof(structs) / sizeof(structs[0]); i++) {
		cr_assert_eq(structs[i].size, structs[i].size_now, "%s: %zu bytes, not %zu",
			     structs[i].name, structs[i].size_now, structs[i].size);
		cr_assert_eq(structs[i].at, structs[i].at_now, "%s.%s is at %zu, not %zu",
			     structs[i].name, structs[i].last, structs[i].at_now, structs[i].at);
		cr_assert_eq(structs[i].end_now, structs[i].size_now,
			     "%s: something lies behind %s", structs[i].name, structs[i].last);
	}
}

/* of those whose arrays the caller makes, or that are stored, every field */
Test(api_abi, fields_of_what_cannot_grow_stay_where_they_are)
{
#define AT(type, field, at) cr_assert_eq(offsetof(struct type, field), at, #type "." #field)
	AT(thmq_claim, data, 0);
	AT(thmq_claim, len, 8);
	AT(thmq_claim, partition, 12);
	AT(thmq_message, data, 0);
	AT(thmq_message, key, 8);
	AT(thmq_message, tag, 16);
	AT(thmq_message, len, 24);
	AT(thmq_message, key_len, 28);
	AT(thmq_message, tag_len, 32);
	AT(thmq_message, partition, 36);
	AT(thmq_message, offset, 40);
	AT(thmq_message, time_ns, 48);
	AT(thmq_event, type, 0);
	AT(thmq_event, error, 4);
	AT(thmq_event, producer, 8);
	AT(thmq_event, consumer, 16);
	AT(thmq_event, cookie, 24);
	AT(thmq_event, sequence, 32);
	AT(thmq_event, offset, 40);
	AT(thmq_event, count, 48);
	AT(thmq_event, partition, 56);
	AT(thmq_event, durability, 60);
	AT(thmq_run_header, magic, 0);
	AT(thmq_run_header, len, 4);
	AT(thmq_run_header, base_offset, 8);
	AT(thmq_run_header, partition, 16);
	AT(thmq_run_header, count, 20);
	AT(thmq_run_header, span, 24);
	AT(thmq_run_header, encoding, 28);
	AT(thmq_run_header, flags, 30);
	AT(thmq_run_header, producer_id, 32);
	AT(thmq_run_header, first_sequence, 40);
	AT(thmq_run_header, transaction, 48);
	AT(thmq_run_header, first_time_ns, 56);
	AT(thmq_run_header, last_time_ns, 64);
	AT(thmq_run_header, producer_epoch, 72);
	AT(thmq_run_header, sequence_span, 76);
	AT(thmq_run_header, tag_filter, 80);
	AT(thmq_run_header, payload_crc, 88);
	AT(thmq_record, size, 0);
	AT(thmq_record, tag_hash, 4);
	AT(thmq_record, time_delta_us, 8);
	AT(thmq_record, key_len, 12);
	AT(thmq_record, tag_len, 14);
}

/* a caller's size decides how much is read: it and the flags are where every version finds them */
Test(api_abi, options_begin_with_size_and_flags)
{
#define OPTS(type)                                                                                 \
	do {                                                                                       \
		struct type o, zero = {.size = sizeof(o)};                                         \
		AT(type, size, 0);                                                                 \
		AT(type, flags, 4);                                                                \
		cr_assert_eq(sizeof(o.size) + sizeof(o.flags), 8);                                 \
		memset(&o, 0xaa, sizeof(o));                                                       \
		type##_init(&o);                                                                   \
		cr_assert_eq(memcmp(&o, &zero, sizeof(o)), 0,                                      \
			     #type "_init(): size, and zero for default");                         \
	} while (0)
	OPTS(thmq_env_opts);
	OPTS(thmq_broker_opts);
	OPTS(thmq_session_opts);
	OPTS(thmq_tls_opts);
	OPTS(thmq_topic_opts);
	OPTS(thmq_producer_opts);
	OPTS(thmq_message_opts);
	OPTS(thmq_consumer_opts);
	OPTS(thmq_txn_opts);
	OPTS(thmq_log_opts);
	OPTS(thmq_log_repair_opts);
	OPTS(thmq_slabs_opts);
	OPTS(thmq_pool_opts);
	OPTS(thmq_forecast_opts);
}

Test(api_abi, the_macros_make_what_init_makes)
{
#define SAME(type, macro)                                                                          \
	do {                                                                                       \
		struct type o;                                                                     \
		type##_init(&o);                                                                   \
		cr_assert_eq(memcmp(&o, macro(.flags = 0), sizeof(o)), 0, #macro);                 \
	} while (0)
	SAME(thmq_env_opts, THMQ_ENV_OPTS);
	SAME(thmq_broker_opts, THMQ_BROKER_OPTS);
	SAME(thmq_session_opts, THMQ_SESSION_OPTS);
	SAME(thmq_tls_opts, THMQ_TLS_OPTS);
	SAME(thmq_topic_opts, THMQ_TOPIC_OPTS);
	SAME(thmq_producer_opts, THMQ_PRODUCER_OPTS);
	SAME(thmq_message_opts, THMQ_MESSAGE_OPTS);
	SAME(thmq_consumer_opts, THMQ_CONSUMER_OPTS);
	SAME(thmq_txn_opts, THMQ_TXN_OPTS);
	SAME(thmq_log_opts, THMQ_LOG_OPTS);
	SAME(thmq_log_repair_opts, THMQ_LOG_REPAIR_OPTS);
	SAME(thmq_slabs_opts, THMQ_SLABS_OPTS);
	SAME(thmq_pool_opts, THMQ_POOL_OPTS);
	SAME(thmq_forecast_opts, THMQ_FORECAST_OPTS);
}

Test(api_abi, numbers_never_change)
{
	static const struct {
		const char *name;
		unsigned long long value, value_now;
	} numbers[] = {
#define IS(name, value) {#name, value, name}
		IS(THMQ_CLASS_OK, 0),           IS(THMQ_CLASS_RETRY, 1),
		IS(THMQ_CLASS_BACKPRESSURE, 2), IS(THMQ_CLASS_HANDLE, 3),
		IS(THMQ_CLASS_ENVIRONMENT, 4),  IS(THMQ_CLASS_CALLER, 5),
		IS(THMQ_ECORRUPT, 1024),        IS(THMQ_ENOTLEADER, 1025),
		IS(THMQ_EFENCED, 1026),         IS(THMQ_EOFFSETRANGE, 1027),
		IS(THMQ_EVERSION, 1028),        IS(THMQ_ENOTOPIC, 1029),
		IS(THMQ_ENOPARTITION, 1030),    IS(THMQ_EFAILED, 1031),
		IS(THMQ_ECONFLICT, 1032),       IS(THMQ_ENOQUORUM, 1033),
		IS(THMQ_DURABILITY_DEFAULT, 0), IS(THMQ_DURABILITY_MEMORY, 1),
		IS(THMQ_DURABILITY_WRITTEN, 2), IS(THMQ_DURABILITY_DURABLE, 3),
		IS(THMQ_DURABILITY_QUORUM, 4),  IS(THMQ_DURABILITY_ALL, 5),
		IS(THMQ_POLICY_DEFAULT, 0),     IS(THMQ_POLICY_POLL, 1),
		IS(THMQ_POLICY_EVENT, 2),       IS(THMQ_POLICY_FIXED, 3),
		IS(THMQ_POLICY_SKI, 4),         IS(THMQ_POLICY_ADAPTIVE, 5),
		IS(THMQ_POLICY_PREDICTIVE, 6),
		IS(THMQ_FORECAST_NAIVE, 1),     IS(THMQ_FORECAST_SES, 2),
		IS(THMQ_FORECAST_AR, 3),        IS(THMQ_FORECAST_ARIMA, 4),
		IS(THMQ_FORECAST_MODES, 5),     IS(THMQ_FORECAST_TRAFFIC, 6),
		IS(THMQ_FORECAST_MIRROR, 1),    IS(THMQ_FORECAST_SNR_RISING, 2),
		IS(THMQ_FORECAST_MODES_ARMA, 4),
		IS(THMQ_ENV_FIRST_CPU, 1),      IS(THMQ_ENV_NO_PIN, 2),
		IS(THMQ_ENV_ALLOW_THREADS, 4),  IS(THMQ_ENV_NO_URING, 8),
		IS(THMQ_BROKER_NO_CREATE, 1),   IS(THMQ_TOPIC_VOLATILE, 1),
		IS(THMQ_TOPIC_RETAIN_CONSUMED, 4),
		IS(THMQ_FULL_REFUSE, 0),        IS(THMQ_FULL_DROP_OLDEST, 1),
		IS(THMQ_TOPIC_IF_ABSENT, 2),    IS(THMQ_PRODUCER_REPORT, 1),
		IS(THMQ_MESSAGE_PARTITION, 1),  IS(THMQ_MESSAGE_TIME, 2),
		IS(THMQ_START_DEFAULT, 0),      IS(THMQ_START_BEGIN, 1),
		IS(THMQ_START_END, 2),          IS(THMQ_START_OFFSET, 3),
		IS(THMQ_START_TIME, 4),         IS(THMQ_CONSUMER_START_ALWAYS, 1),
		IS(THMQ_EVENT_SETTLED, 1),      IS(THMQ_EVENT_FAILED, 2),
		IS(THMQ_EVENT_LOST, 3),         IS(THMQ_EVENT_ASSIGNED, 4),
		IS(THMQ_EVENT_REVOKED, 5),      IS(THMQ_EVENT_STALLED, 6),
		IS(THMQ_EVENT_OFFSETRANGE, 7),  IS(THMQ_EVENT_ERROR, 8),
		IS(THMQ_CONSUMER_SHARED, 2),    IS(THMQ_EVENT_DEAD_LETTER, 13),
		IS(THMQ_EVENT_WEAKER, 21),
		IS(THMQ_EVENT_REQUEST_EXPIRED, 20), IS(THMQ_TOPIC_TEMPORARY, 256),
		IS(THMQ_EVENT_TXN_CHECK, 24),   IS(THMQ_CONSUMER_READ_UNCOMMITTED, 16),
		IS(THMQ_TXN_COMMIT, 1),         IS(THMQ_TXN_ABORT, 2),
		IS(THMQ_ASSIGN_STICKY, 3),      IS(THMQ_ASSIGN_NEAR, 4),      IS(THMQ_GROUP_FORCE, 1),
		IS(THMQ_FILTER_MAX, 1024),      IS(THMQ_INSTANCE_MAX, 63),
		IS(THMQ_EVENT_CLOSED, 9),       IS(THMQ_EVENT_DROPPED, 10),
		IS(THMQ_RUN_MAGIC, 0x314e5552), IS(THMQ_RUN_RECORDS, 1),
		IS(THMQ_RUN_STATE, 2),          IS(THMQ_RUN_OPAQUE, 3),
		IS(THMQ_RUN_SPARSE, 1),         IS(THMQ_RUN_RELOCATED, 2),
		IS(THMQ_LOG_NO_CREATE, 1),      IS(THMQ_FINDING_TORN_TAIL, 1),
		IS(THMQ_BROKER_NO_BACKGROUND_FLUSH, 2), IS(THMQ_BROKER_JOIN, 4),
		IS(THMQ_LOG_NO_BACKGROUND_FLUSH, 2),
		IS(THMQ_ENV_LOCK_MEMORY, 16),
		IS(THMQ_BLOCK_MIN, 64),         IS(THMQ_BLOCK_MAX, 8388608),
		IS(THMQ_BLOCK_ORDERS, 18),      IS(THMQ_SLAB_BYTES, 33554432),
		IS(THMQ_SLABS_MAX, 4096),       IS(THMQ_REGISTRARS_MAX, 56),
		IS(THMQ_DOMAIN_PRIVATE, 0),     IS(THMQ_PAGES_DEFAULT, 0),
		IS(THMQ_PAGES_GIANT, 1),        IS(THMQ_PAGES_HUGE, 2),
		IS(THMQ_PAGES_TRANSPARENT, 3),  IS(THMQ_PAGES_PLAIN, 4),
		IS(THMQ_SLABS_LOCK, 1),         IS(THMQ_SLABS_PREFAULT, 2),
		IS(THMQ_REGISTRAR_REMOTE, 1),   IS(THMQ_REGISTRAR_ANY_DOMAIN, 2),
		IS(THMQ_PURPOSE_GENERAL, 0),    IS(THMQ_PURPOSE_RECEIVE, 1),
		IS(THMQ_PURPOSE_SEND, 2),       IS(THMQ_POOL_NODE, 1),
		IS(THMQ_POOL_NEAR, 2),
		IS(THMQ_FLUSH_PROBE, 0),        IS(THMQ_FLUSH_DSYNC, 1),
		IS(THMQ_FLUSH_FDATASYNC, 2),    IS(THMQ_POLLED_PROBE, 0),
		IS(THMQ_POLLED_OFF, 1),         IS(THMQ_POLLED_ON, 2),
		IS(THMQ_FINDING_DAMAGE, 2),     IS(THMQ_FINDING_MISSING, 3),
		IS(THMQ_FINDING_FOREIGN, 4),    IS(THMQ_FINDING_VERSION, 5),
		IS(THMQ_FINDING_INDEX, 6),      IS(THMQ_FINDING_LEFTOVER, 7),
		IS(THMQ_FINDING_IDENTITY, 8),   IS(THMQ_STEP_INDEX, 1),
		IS(THMQ_STEP_VOTE, 2),          IS(THMQ_STEP_SEGMENT, 3),
		IS(THMQ_STEP_QUARANTINE, 4),    IS(THMQ_STEP_CUT, 5),
		IS(THMQ_STEP_PLACE, 6),         IS(THMQ_LOSS_DAMAGED, 1),
		IS(THMQ_LOSS_WHOLE, 2),         IS(THMQ_LOSS_MESSAGES, 3),
		IS(THMQ_LOSS_STATE, 4),         IS(THMQ_REPAIR_WRITE, 1),
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		cr_assert_eq(numbers[i].value, numbers[i].value_now, "%s is %llu, not %llu",
			     numbers[i].name, numbers[i].value_now, numbers[i].value);
}
