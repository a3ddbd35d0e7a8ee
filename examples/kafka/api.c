/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.c - which requests there are, in which versions, and whose they are. Versions that older clients look for are named although
 * nobody uses them any more (Kafka itself does so: KAFKA-18659): what is below @works is refused.
 */
#include <stdio.h>

#include "kafka.h"

struct api {
	int16_t key, min, works, max, flexible; /* versions; flexible from that one on */
	void (*run)(struct request *r);
	const char *name;
	bool anywhere; /* of several brokers each answers it, if only by saying which one leads */
};

#define NEVER INT16_MAX
static const struct api apis[] = {
	{0, 0, 3, 9, 9, produce_run, "Produce", true},
	{1, 0, 4, 12, 12, fetch_run, "Fetch", true},
	{2, 0, 1, 7, 6, list_offsets_run, "ListOffsets", true},
	{3, 0, 0, 12, 9, metadata_run, "Metadata", true},
	{8, 0, 2, 8, 8, offset_commit_run, "OffsetCommit", true},
	{9, 0, 1, 8, 6, offset_fetch_run, "OffsetFetch", true},
	{10, 0, 0, 4, 3, find_coordinator_run, "FindCoordinator", true},
	{11, 0, 0, 9, 6, join_group_run, "JoinGroup", true},
	{12, 0, 0, 4, 4, heartbeat_run, "Heartbeat", true},
	{13, 0, 0, 5, 4, leave_group_run, "LeaveGroup", true},
	{14, 0, 0, 5, 4, sync_group_run, "SyncGroup", true},
	{15, 0, 0, 5, 5, describe_groups_run, "DescribeGroups", true},
	{16, 0, 0, 4, 3, list_groups_run, "ListGroups", false},
	{17, 0, 0, 1, NEVER, auth_handshake, "SaslHandshake", true},
	{18, 0, 0, 3, 3, api_versions, "ApiVersions", true},
	{19, 0, 0, 7, 5, create_topics_run, "CreateTopics", false},
	{20, 0, 0, 5, 4, delete_topics_run, "DeleteTopics", false},
	{22, 0, 0, 4, 2, init_producer_id_run, "InitProducerId", true},
	{24, 0, 0, 3, 3, add_partitions_to_txn_run, "AddPartitionsToTxn", true},
	{25, 0, 0, 3, 3, add_offsets_to_txn_run, "AddOffsetsToTxn", true},
	{26, 0, 0, 3, 3, end_txn_run, "EndTxn", true},
	{28, 0, 0, 3, 3, txn_offset_commit_run, "TxnOffsetCommit", true},
	{32, 0, 0, 4, 4, describe_configs_run, "DescribeConfigs", false},
	{33, 0, 0, 2, 2, alter_configs_run, "AlterConfigs", false},
	{36, 0, 0, 2, 2, auth_authenticate, "SaslAuthenticate", true},
	{37, 0, 0, 3, 2, create_partitions_run, "CreatePartitions", false},
	{42, 0, 0, 2, 2, delete_groups_run, "DeleteGroups", false},
	{44, 0, 0, 1, 1, incremental_alter_configs_run, "IncrementalAlterConfigs", false},
	{47, 0, 0, 0, NEVER, offset_delete_run, "OffsetDelete", false},
	{65, 0, 0, 0, 0, describe_transactions_run, "DescribeTransactions", false},
	{66, 0, 0, 0, 0, list_transactions_run, "ListTransactions", false},
};
#define API_COUNT ((int32_t)(sizeof(apis) / sizeof(apis[0])))

static const struct api *api_find(int16_t key)
{
	int32_t i;

	for (i = 0; i < API_COUNT; i++)
		if (apis[i].key == key)
			return &apis[i];
	return NULL;
}

bool api_begin(struct request *r, size_t len)
{
	const struct api *a;
	struct in *in = &r->in;

	in_init(in, r->frame, len, false);
	r->api = in_i16(in);
	r->version = in_i16(in);
	r->correlation = in_i32(in);
	out_raw(&r->out, ANSWER_HEAD);
	a = api_find(r->api);
	if (in->bad || !a)
		return false;
	/* A newer one of this is answered in the oldest way, that the client can read what there is: it speaks first. */
	if (r->api == API_VERSIONS && (r->version < 0 || r->version > a->max)) {
		r->version = -1;
		return true;
	}
	if (r->version < a->works || r->version > a->max)
		return false;
	r->client_id = in_plain_text(in);
	in->flex = r->version >= a->flexible;
	in_tags(in);
	r->out.flex = in->flex;
	return !in->bad;
}

void api_run(struct request *r)
{
	const struct api *a = api_find(r->api);

	r->begun_ns = clock_ns();
	if (r->server->o.verbose)
		fprintf(stderr, "%s %u: %s %d\n", r->conn->peer, r->conn->id, a->name, r->version);
	if (!cluster_serves(r->server) && !(a->anywhere)) {
		/* those who manage topics ask the one that leads, and look for it when this connection is gone */
		r->silent = true;
		r->conn->closing = true;
		request_done(r);
		return;
	}
	a->run(r);
}

void api_versions(struct request *r)
{
	struct out *out = &r->out;
	int32_t i;

	out_i16(out, r->version < 0 ? K_UNSUPPORTED_VERSION : K_NONE);
	out_array(out, API_COUNT);
	for (i = 0; i < API_COUNT; i++) {
		out_i16(out, apis[i].key);
		out_i16(out, apis[i].min);
		out_i16(out, apis[i].max);
		out_tags(out);
	}
	if (r->version >= 1)
		out_i32(out, 0);
	out_tags(out);
	request_done(r);
}
