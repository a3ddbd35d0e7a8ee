/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medium.h - what the files of the RDMA medium share. A connection joins two links as TCP's does (../tcp/tcp.h), with a queue
 * pair in the socket's place. The same stream of frames goes through it, cut into chunks that each fill one receive of the
 * other side. Large messages and runs do not go through it: the broker reads messages from the client's data area, and
 * writes runs into memory of the client's that was granted for them. Nothing of the broker's can be reached by a client.
 *
 *   home   a core's part: its connections, and the events of the connection manager. One poller.
 *   hub    one device on that core: two completion queues and the channel that tells of them.
 *   trust  one protection domain of it with its shared receive queue: one for all clients of our brokers, which reach
 *          nothing, and one for each broker that we are a client of.
 *   conn   one connection.
 *
 * doc/transports.md.
 */
#ifndef THMQI_RDMA_MEDIUM_H
#define THMQI_RDMA_MEDIUM_H

#include "../gate.h"
#include "../joint.h"
#include "../tcp/tcp.h" /* addresses */
#include "internal.h"
#include "wire/stream.h"

#define RDMA_SLOT_BYTES 8192u        /* of a receive, and of what is sent into one */
#define RDMA_SLOT_BYTES_MIN 512u     /* the other's: less is no use */
#define RDMA_CREDITS 32u             /* receives that stand ready for a connection */
#define RDMA_CREDITS_MAX 1024u       /* of the other's, that are believed */
#define RDMA_LARGE_BYTES (16u << 10) /* longer messages and runs are read and written in place */
#define RDMA_INLINE_BYTES                                                                          \
	220u         /* asked for: these go with the request, and are not fetched from memory */
#define RDMA_SQ 128u /* requests of a connection that may be outstanding */
#define RDMA_SIGNAL_EVERY 8u /* chunks: a completion is asked for at least so often */
#define RDMA_READS 16u       /* outstanding */
#define RDMA_WRITES 16u
#define RDMA_PULLS 64u /* messages that wait for their turn behind one that is being read */
#define RDMA_OFFERS 16u
#define RDMA_AHEAD 8u          /* frames, among which large runs are looked for */
#define RDMA_CQ 32768u         /* entries of each completion queue, where the device has so many */
#define RDMA_BLOCKS 512u       /* of receives, of a trust */
#define RDMA_GREETINGS_MAX 64u /* of a core: connections that have not said what they want */
#define RDMA_GREETING_NS 10000000000ull /* of each step */
#define RDMA_LEAVE_NS 2000000000ull
#define RDMA_DRAIN_NS 1000000000ull
#define RDMA_DOMAINS 0x52440000u /* trust domains of brokers that we are clients of: from here on */

/* What a side tells when it connects, or answers: the connection manager carries it. */
#define RDMA_ASK_MAGIC 0x524d4854u /* "THMR" */
#define RDMA_ASK_VERSION 1u
struct rdma_ask {
	uint32_t magic;
	uint16_t version, bytes;
	int32_t status; /* the broker's: why not */
	uint32_t shard; /* the client's */
	uint32_t slot_bytes;
	uint16_t credits, reserved;
	uint64_t instance;
	uint32_t zero;
	uint32_t crc; /* CRC32C of all before it */
};
_Static_assert(sizeof(struct rdma_ask) == 40, "InfiniBand has 56 bytes for it");

/* Before the stream's bytes in each chunk. */
struct rdma_chunk {
	uint32_t
		returned; /* receives that the sender of this has posted again, of all that the other has used */
	uint32_t len; /* bytes behind it */
};

struct rdma_world { /* of an environment */
	struct thmqi_verbs verbs;
	struct thmqi_cm cm;
	struct thmqi_transport *transport;
	_Atomic uint32_t trusts;                      /* numbers given out */
	struct rdma_home *homes[THMQ_CORE_COUNT_MAX]; /* each its core's own */
};

struct rdma_home {
	struct thmqi_poller poller;
	struct rdma_world *world;
	struct thmq_core *core;
	struct rdma_event_channel *channel;
	struct thmq_watch *watch;
	struct thmqi_list hubs, conns, doors;
	struct thmqi_lobby lobby;
	uint32_t refs; /* hubs, connections, and the core's */
	bool readable; /* events of the connection manager */
	bool ended;
	struct thmqi_rdma_counters counters;
};

struct rdma_hub {
	struct thmqi_list link;
	struct rdma_home *home;
	struct thmqi_rdma_device *device;
	struct ibv_comp_channel *channel;
	struct ibv_cq *recv_cq, *send_cq;
	struct thmq_watch *watch, *async_watch;
	struct thmqi_list trusts;
	struct thmqi_map conns; /* by number of their queue pairs */
	uint32_t refs;          /* trusts */
	uint32_t unacked[2];    /* events of recv_cq, send_cq */
	uint32_t cq_room;       /* entries that nobody has claimed */
	bool told, async_told;  /* by the watches */
	bool failed;            /* it refused what it must not */
	bool dead;              /* the device is gone: no new connection */
};

struct rdma_slot {
	struct rdma_trust *trust;
	struct rdma_slot *next;
	uint8_t *data;
	uint32_t lkey;
	uint32_t at, end; /* of what is in it and was not read */
};

/* Memory that the device may use for us. */
struct rdma_memory {
	struct thmqi_buf *buf;
	struct ibv_mr *mr; /* NULL: its slab is registered */
	uint32_t lkey;
};

struct rdma_block {
	struct rdma_memory memory;
	struct rdma_slot slots[RDMA_CREDITS];
};

struct rdma_trust {
	struct thmqi_list link;
	struct rdma_hub *hub;
	struct tcp_address where; /* the broker; len 0: all clients */
	struct thmqi_rdma_domain *domain;
	struct ibv_srq *srq;
	struct thmq_pool *landing; /* client: memory that the broker may write to; NULL: none */
	struct rdma_block *blocks[RDMA_BLOCKS];
	uint32_t block_count, blocks_wanted, blocks_max;
	struct rdma_slot *idle; /* to be posted */
	uint32_t refs;          /* connections */
};

enum rdma_state {
	RDMA_RESOLVING,  /* client: address, then route */
	RDMA_CONNECTING, /* client: the broker's answer is awaited */
	RDMA_MOVING,     /* broker: from the door's core to the shard's */
	RDMA_GREETING,   /* connected, or about to be: the other's hello is awaited */
	RDMA_OPEN,
	RDMA_LEAVING, /* all is said: what comes is thrown away until the other has closed */
	RDMA_CLOSED   /* the queue pair drains */
};

enum rdma_kind { RDMA_CHUNK, RDMA_READ, RDMA_WRITE, RDMA_LAST };

/* A message that arrived, or whose frame did. */
struct rdma_pull {
	struct thmqi_frame frame;
	uint64_t from;
	uint32_t key;
	uint8_t state;
};
enum rdma_pull_state { PULL_WANTED, PULL_READING, PULL_READY };

/* A run that is to go straight into the client's memory: as either side sees it. */
struct rdma_offer {
	uint8_t state;
	uint32_t stream, len;
	uint64_t token;
	uint64_t to;           /* broker */
	uint32_t key;          /* broker; 0: refused */
	struct thmqi_buf *buf; /* client */
};
enum rdma_offer_state { OFFER_FREE, OFFER_TO_TELL, OFFER_TOLD, OFFER_ANSWERED };

struct rdma_conn {
	struct thmqi_list link;   /* of its home */
	struct rdma_home *home;   /* counted */
	struct rdma_trust *trust; /* counted; NULL before there is a queue pair */
	struct thmqi_timer timer;
	struct thmqi_task task; /* to the shard's core */
	struct thmq_core *core;
	struct thmqi_link
		*mirror; /* the link, or what was: counted, as long as its area may be reached */
	struct thmqi_joint joint;
	struct thmqi_guest guest; /* broker */
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
	uint8_t state; /* enum rdma_state */
	bool on_core;
	bool ticked;
	bool connected;   /* the other is to be told of the end */
	bool queue_done;
	bool last_seen; /* the queue pair takes no more receives */
	bool draining;  /* the marker was posted */
	bool stalled;     /* the frame in the decoder has to wait */
	bool held_up;     /* broker: the next run waits for its grant */
	int error;
	uint64_t deadline_ns, looked_ns;
	/* greeting */
	struct rdma_ask ask;      /* the other's */
	struct thmqi_hello hello; /* the other's */
	uint64_t instance;        /* client: of the broker; 0: any */
	uint8_t client_id[16];
	struct tcp_address addresses[TCP_ADDRESSES], from; /* client; from: len 0: any */
	uint32_t address_count, address_next;
	uint8_t reads_max; /* broker: that may be outstanding */
	/* in */
	struct thmqi_stream in;
	struct rdma_slot *queue, **queue_end; /* receives that were not read to their end */
	uint32_t received, freed,
		told_freed; /* receives that were used; that were given back; that the other knows of */
	struct rdma_pull pulls[RDMA_PULLS];       /* broker */
	uint32_t pull_head, pull_tail, pull_next; /* next: the first that was not asked for */
	uint32_t reads_out;
	/* out */
	struct rdma_memory tx;
	uint32_t tx_posted, tx_done; /* chunks */
	uint32_t chunk_len; /* of the one that is being filled, with its header; 0: there is none */
	uint32_t chunk_max;
	uint32_t inline_max;
	uint32_t returned; /* of ours, as the other told */
	uint64_t sq_posted, sq_done,
		sq_signalled; /* requests; the last of which a completion was asked for */
	uint8_t sq_kind[RDMA_SQ];
	uint32_t sq_ref[RDMA_SQ];
	struct ibv_send_wr wr[RDMA_SQ];
	struct ibv_sge sge[RDMA_SQ];
	uint32_t wr_count;
	const uint8_t *rest; /* of a body that did not fit */
	uint32_t rest_len;
	struct {
		uint32_t stream;
		uint64_t token;
	} rest_of, writes[RDMA_WRITES]; /* broker: runs that are being sent, written */
	bool writing[RDMA_WRITES];
	uint32_t writes_out;
	struct rdma_offer offers[RDMA_OFFERS];
	uint32_t offer_count;       /* that are not free */
	struct ibv_mr *area;        /* NULL: it is not registered */
	bool elsewhere, grants;     /* agreed upon */
	uint32_t number;            /* of the next frame */
};

/* connect.c */
int thmqi_rdma_world(struct thmqi_transport *t,
		     struct rdma_world **ret_world); /* made at its first use */
int thmqi_rdma_parse(const char *url, char place[128],
		     char from[128]); /* without what is behind ?; "" */
int thmqi_rdma_addresses(const char *url, bool passive, struct tcp_address *ret, uint32_t max,
			 uint32_t *ret_count, struct tcp_address *ret_from);
void thmqi_rdma_ask_seal(struct rdma_ask *a);
int thmqi_rdma_ask_check(const void *data, uint32_t len, struct rdma_ask *ret);
void thmqi_rdma_event_of(struct rdma_conn *c, enum rdma_cm_event_type event, int status,
			 const void *data, uint32_t len); /* of the connection manager */
int thmqi_rdma_greeted(struct rdma_conn *c);              /* client: the hello has come */

/* door.c */
struct rdma_door;
int thmqi_rdma_plain(const char *url, const struct thmq_tls_opts *tls); /* an error where TLS is asked for */
int thmqi_rdma_listen(struct thmqi_listener *l, const char *url,
		      const struct thmqi_listen_opts *opts, void **ret_door);
void thmqi_rdma_unlisten(void *door);
const char *thmqi_rdma_url_of(const void *door);
void thmqi_rdma_door_event(struct rdma_door *d, struct rdma_cm_id *id,
			   enum rdma_cm_event_type event, const struct rdma_conn_param *param,
			   const void *data, uint32_t len);
struct rdma_door *thmqi_rdma_door_find(struct rdma_home *h, const struct rdma_cm_id *id);
void thmqi_rdma_door_end(struct rdma_door *d); /* its core closes */
struct thmqi_list *thmqi_rdma_door_link(struct rdma_door *d);
struct rdma_door *thmqi_rdma_door_of(struct thmqi_list *link);
int thmqi_rdma_adopt(struct rdma_conn *c); /* broker: the hello has come */

/* home.c */
int thmqi_rdma_home(struct rdma_world *w, struct thmq_core *core,
		    struct rdma_home **ret_home); /* on that core */
void thmqi_rdma_home_unref(struct rdma_home *h);

/* hub.c */
int thmqi_rdma_hub(struct rdma_home *h, struct ibv_context *of,
		   struct rdma_hub **ret_hub); /* made if absent */
void thmqi_rdma_hub_unref(struct rdma_hub *hub);
int thmqi_rdma_hub_poll(struct rdma_hub *hub);
bool thmqi_rdma_hub_arm(struct rdma_hub *hub);             /* true: there is work after all */
void thmqi_rdma_hub_dead(struct rdma_hub *hub, int error); /* all connections end */

/* trust.c */
int thmqi_rdma_trust(struct rdma_hub *hub, const struct tcp_address *where,
		     struct rdma_trust **ret_trust); /* counted */
void thmqi_rdma_trust_unref(struct rdma_trust *t);
int thmqi_rdma_trust_room(struct rdma_trust *t);    /* receives for one connection more */
void thmqi_rdma_trust_repost(struct rdma_trust *t); /* all that are idle, by one call */
int thmqi_rdma_memory_open(struct rdma_trust *t, uint32_t purpose,
			   struct rdma_memory *ret); /* for RDMA_CREDITS chunks */
void thmqi_rdma_memory_close(struct rdma_trust *t, struct rdma_memory *m);
static inline void thmqi_rdma_slot_idle(struct rdma_slot *slot)
{
	slot->next = slot->trust->idle;
	slot->trust->idle = slot;
}

/* queue.c: the queue pair */
int thmqi_rdma_queue_open(struct rdma_conn *c);
int thmqi_rdma_queue_ready(struct rdma_conn *c); /* to receive and to send: the other is known */
void thmqi_rdma_queue_fail(struct rdma_conn *c); /* no more requests: it drains */
bool thmqi_rdma_queue_drained(const struct rdma_conn *c);
void thmqi_rdma_queue_close(struct rdma_conn *c);
void thmqi_rdma_param(const struct rdma_conn *c, const struct rdma_ask *ask,
		      struct rdma_conn_param *ret);
struct ibv_send_wr *
thmqi_rdma_request(struct rdma_conn *c, uint32_t kind, uint32_t ref,
		   const struct ibv_sge *sge); /* the caller has seen that there is room */
static inline uint32_t thmqi_rdma_sq_room(const struct rdma_conn *c) /* one is kept for the end */
{
	return RDMA_SQ - 1 - (uint32_t)(c->sq_posted - c->sq_done);
}
void thmqi_rdma_post(struct rdma_conn *c); /* all requests that were made, by one call */
void thmqi_rdma_sent(struct rdma_conn *c, const struct ibv_wc *wc);
int thmqi_rdma_register_area(struct rdma_conn *c);

/* conn.c */
struct rdma_conn *thmqi_rdma_conn_make(bool of_broker);
void thmqi_rdma_conn_start(struct rdma_conn *c, struct rdma_home *h);
void thmqi_rdma_conn_free_if_done(struct rdma_conn *c);
void thmqi_rdma_conn_off_core(struct rdma_conn *c);
int thmqi_rdma_conn_poll(struct rdma_conn *c);
void thmqi_rdma_conn_finish(struct rdma_conn *c);
bool thmqi_rdma_conn_arm(struct rdma_conn *c);
void thmqi_rdma_conn_close(struct rdma_conn *c); /* its core closes */
void thmqi_rdma_opened(struct rdma_conn *c);
void thmqi_rdma_end(struct rdma_conn *c, int error);
void thmqi_rdma_tick_at(struct rdma_conn *c, uint64_t ns);
int thmqi_rdma_hello_send(struct rdma_conn *c, struct thmqi_hello *hello, uint32_t kind);

/* in.c */
void thmqi_rdma_received(struct rdma_conn *c, struct rdma_slot *slot, uint32_t bytes);
int thmqi_rdma_in(struct rdma_conn *c); /* what had to wait; work done */
void thmqi_rdma_drop_queue(struct rdma_conn *c);

/* out.c */
bool thmqi_rdma_out_wanted(const struct rdma_conn *c);  /* something could be sent now */
bool thmqi_rdma_out_blocked(const struct rdma_conn *c); /* something waits for the other side */
void thmqi_rdma_out(struct rdma_conn *c);
void thmqi_rdma_put_bytes(struct rdma_conn *c, const void *bytes,
			  uint32_t len); /* a greeting: there is room */

/* reach.c: what does not go through the stream */
int thmqi_rdma_pull(
	struct rdma_conn *c,
	const struct thmqi_frame *f); /* broker: a message that is elsewhere, or behind one */
bool thmqi_rdma_pulls_full(const struct rdma_conn *c);
void thmqi_rdma_pulls_ask(struct rdma_conn *c);           /* requests for those that are wanted */
int thmqi_rdma_pulled(struct rdma_conn *c, uint32_t ref); /* it is here */
void thmqi_rdma_wrote(struct rdma_conn *c, uint32_t ref);
bool thmqi_rdma_is_being_written(const struct rdma_conn *c, uint32_t stream, uint64_t token);
struct rdma_offer *thmqi_rdma_offer_find(struct rdma_conn *c, uint32_t stream, uint64_t token);
void thmqi_rdma_offer_free(struct rdma_conn *c, struct rdma_offer *o);
void thmqi_rdma_offer_ahead(struct rdma_conn *c); /* broker: large runs among the next frames */
void thmqi_rdma_offer_write(struct rdma_conn *c, struct rdma_offer *o, const struct thmqi_frame *f);
struct rdma_offer *thmqi_rdma_offer_make(struct rdma_conn *c,
					 const struct thmqi_frame *f); /* NULL: it cannot be */
int thmqi_rdma_take_offer(struct rdma_conn *c, const struct thmqi_frame *f); /* client */
int thmqi_rdma_take_grant(struct rdma_conn *c, const struct thmqi_frame *f); /* broker */
void thmqi_rdma_offers_end(struct rdma_conn *c);

#endif
