/* SPDX-License-Identifier: Apache-2.0 */
/* carrier.c - carriers as the public header has them: who may call is checked, options are copied, texts are set. Nothing else is here. */
#include <thundermq/replica.h>

#include "carry.h"

static bool is_mine(const struct thmq_carrier *carrier)
{
	return thmqi_core_is_mine(((const struct thmqi_courier *)carrier)->core);
}

void (thmq_carrier_opts_init)(struct thmq_carrier_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

int thmq_carrier_open(struct thmq_core *core, const struct thmq_carrier_opts *opts,
		      struct thmq_carrier **ret_carrier)
{
	struct thmqi_courier_opts in;
	struct thmq_carrier_opts o;

	if (!core || !opts || !ret_carrier)
		return thmqi_fail(-EINVAL,
				  "a carrier needs a core, options, and a place for its handle");
	if (!thmqi_core_is_mine(core))
		return thmqi_fail(-EPERM, "a carrier is opened by the thread that drives its core");
	if (thmqi_opts_copy(&o, sizeof(o), opts) != 0 || o.flags)
		return thmqi_fail(-EINVAL, "a carrier: options of a size that this library cannot "
					   "take, or flags: there are none");
	in = (struct thmqi_courier_opts){.id = o.id,
					 .cluster = o.cluster,
					 .listen = o.listen,
					 .tls = o.tls,
					 .lane = o.lane,
					 .beside = (struct thmqi_courier *)o.beside,
					 .silence_ms = o.silence_ms};
	return thmqi_courier_open(core, &in, (struct thmqi_courier **)ret_carrier);
}

int thmq_carrier_close(struct thmq_carrier *carrier)
{
	if (!carrier)
		return 0;
	if (!is_mine(carrier))
		return thmqi_fail(-EPERM, "a carrier is closed by the thread that drives its core");
	thmqi_courier_close((struct thmqi_courier *)carrier);
	return 0;
}

int thmq_carrier_url(struct thmq_carrier *carrier, char *ret_url, uint32_t size)
{
	const char *url;

	if (!is_mine(carrier))
		return -EPERM;
	url = thmqi_courier_url((struct thmqi_courier *)carrier);
	if (strlen(url) >= size)
		return -ENOSPC;
	strcpy(ret_url, url);
	return (int)strlen(url);
}

int thmq_carrier_place(struct thmq_carrier *carrier, uint64_t id, const char *url)
{
	if (!is_mine(carrier))
		return -EPERM;
	return thmqi_courier_place((struct thmqi_courier *)carrier, id, url);
}

int thmq_carrier_peer(struct thmq_carrier *carrier, uint32_t index,
		      struct thmq_carrier_peer *ret_peer)
{
	struct thmqi_courier_peer p;
	struct thmq_carrier_peer out;
	uint32_t size;

	if (!ret_peer || thmqi_size_is_wrong(ret_peer->size))
		return thmqi_fail(-EINVAL, "a carrier's peer: set the size field first");
	if (!is_mine(carrier))
		return -EPERM;
	if (!thmqi_courier_peer((struct thmqi_courier *)carrier, index, &p))
		return -ENOENT;
	size = ret_peer->size;
	out = (struct thmq_carrier_peer){.size = size,
					 .connected = p.connected,
					 .id = p.id,
					 .error = p.error,
					 .secure = p.secure,
					 .connections = p.connections,
					 .messages_out = p.messages_out,
					 .messages_in = p.messages_in,
					 .bytes_out = p.bytes_out,
					 .bytes_in = p.bytes_in,
					 .refused = p.refused};
	memcpy(out.url, p.url, sizeof(out.url));
	memset(ret_peer, 0, size);
	memcpy(ret_peer, &out, THMQI_MIN(size, (uint32_t)sizeof(out)));
	return 0;
}
