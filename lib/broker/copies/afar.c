/* SPDX-License-Identifier: Apache-2.0 */
/*
 * afar.c - the way between brokers that are in different processes: a carrier for each shard, all behind one port. A member's address is where clients
 * reach it, and says in which port the others do: tcp://host:port+other, without it the one that is 10000 higher. Knows not what is carried.
 */
#include <stdio.h>

#include "lead.h"
#include "node.h"
#include "replica/courier.h"

#define OTHER_PORT 10000u
#define PORT_MAX 65535u

bool thmqi_afar_is(const char *address)
{
	return strncmp(address, "tcp://", 6) == 0 || strncmp(address, "tls://", 6) == 0;
}

/* The port that @at begins with. 0: none. */
static uint32_t port_at(const char *at, const char **ret_end)
{
	uint32_t port = 0;

	while (*at >= '0' && *at <= '9' && port <= PORT_MAX)
		port = port * 10 + (uint32_t)(*at++ - '0');
	*ret_end = at;
	return port <= PORT_MAX ? port : 0;
}

int thmqi_afar_url(const char *address, char *ret_url, size_t size)
{
	const char *colon = strrchr(address, ':'), *end;
	uint32_t port = colon ? port_at(colon + 1, &end) : 0, other = port + OTHER_PORT;

	if (!thmqi_afar_is(address) || !port)
		return -EINVAL;
	if (*end == '+')
		other = port_at(end + 1, &end);
	if (*end || !other || other > PORT_MAX ||
	    (size_t)snprintf(ret_url, size, "tcp%.*s:%u", (int)(colon - address - 3), address + 3,
			     other) >= size)
		return -EINVAL;
	return 0;
}

void thmqi_afar_client_url(const char *address, char *ret_url, size_t size)
{
	size_t len = thmqi_afar_is(address) ? strcspn(address, "+") : strlen(address);

	len = THMQI_MIN(len, size - 1);
	memcpy(ret_url, address, len);
	memset(ret_url + len, 0, size - len);
}

/* ------------------------------------------------------------------- open */

static struct thmqi_courier *other_of(const struct shard *s)
{
	const struct thmq_broker *b = s->broker;
	uint32_t i;

	for (i = 0; i < b->shard_count; i++)
		if (&b->shards[i] != s && b->shards[i].lead && b->shards[i].lead->courier)
			return b->shards[i].lead->courier;
	return NULL;
}

static int listen_url(const struct thmq_broker *b, char *ret_url, size_t size)
{
	const struct thmqi_member *me;

	if (b->opts.cluster_listen) {
		if (strlen(b->opts.cluster_listen) >= size)
			return thmqi_fail(-EINVAL, "broker: cluster_listen is too long");
		strcpy(ret_url, b->opts.cluster_listen);
		return 0;
	}
	me = thmqi_members_find(b->cluster, b->opts.node_id);
	if (me)
		return thmqi_afar_url(me->address, ret_url, size);
	return thmqi_fail(
		-EINVAL, "broker: one that joins says by cluster_listen where the others reach it");
}

/* Where the first ones are, until the log says who belongs to the cluster. */
static int place_all(struct shard *s)
{
	const struct thmqi_members *m = s->broker->cluster;
	char url[THMQI_ADDRESS_MAX];
	uint32_t i;
	int rc;

	for (i = 0; i < m->count; i++) {
		if (m->list[i].id == s->broker->opts.node_id)
			continue;
		rc = thmqi_afar_url(m->list[i].address, url, sizeof(url));
		rc = rc ? rc : thmqi_courier_place(s->lead->courier, m->list[i].id, url);
		if (rc && rc != -EHOSTUNREACH) /* that is looked up again */
			return rc;
	}
	return 0;
}

int thmqi_afar_open(struct shard *s)
{
	struct thmq_broker *b = s->broker;
	const struct thmq_tls_opts key = {.size = sizeof(key),
					  .psk_identity = "thundermq-cluster",
					  .psk_key = b->opts.cluster_key};
	char name[THMQI_CLUSTER_NAME_MAX + 1], url[THMQI_ADDRESS_MAX];
	struct thmqi_courier_opts o = {.id = b->opts.node_id,
				       .cluster = name,
				       .tls = b->opts.cluster_key ? &key : b->opts.cluster_tls,
				       .lane = s->id,
				       .address_of = thmqi_afar_url,
				       .mark = *thmqi_node_mark(b),
				       .list = thmqi_node_list(b),
				       .meet = thmqi_node_meet,
				       .meet_ctx = b,
				       .beside = other_of(s)};
	uint32_t i;
	int rc;

	if (!thmqi_afar_is(b->cluster->list[0].address))
		return 0; /* of one environment */
	for (i = 0; i < THMQI_CLUSTER_NAME_MAX / 2; i++)
		snprintf(name + 2 * i, 3, "%02x", b->cluster_id[i]);
	rc = o.beside ? 0 : listen_url(b, url, sizeof(url));
	if (!o.beside)
		o.listen = url;
	rc = rc ? rc : thmqi_courier_open(s->core, &o, &s->lead->courier);
	if (!rc && (b->opts.flags & THMQ_BROKER_JOIN))
		rc = place_all(s);
	return rc;
}

int thmqi_afar_join(struct shard *s)
{
	struct lead *l = s->lead;

	return l->courier ? thmqi_courier_join(l->courier, &l->carried, l->group,
					       thmqi_lead_group(s->broker, s->id))
			  : 0;
}

void thmqi_afar_leave(struct shard *s)
{
	thmqi_courier_leave(&s->lead->carried);
}

void thmqi_afar_close(struct shard *s)
{
	thmqi_courier_leave(&s->lead->carried);
	thmqi_courier_close(s->lead->courier);
	s->lead->courier = NULL;
}
