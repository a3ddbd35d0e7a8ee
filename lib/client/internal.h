/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - the client's own structures. All of a session belongs to one thread; what arrives is taken in by
 * process() only, which every call makes when it needs news.
 */
#ifndef THMQI_CLIENT_INTERNAL_H
#define THMQI_CLIENT_INTERNAL_H

#include <thundermq/log.h>

#include "base/base.h"
#include "base/handle.h"
#include "client/client.h"
#include "transport/transport.h"
#include "wire/frame.h"
#include "wire/packed.h"

/* ------------------------------------------------------------------- links */

enum slot_state { SLOT_CLAIMED = 1, SLOT_COMMITTED, SLOT_FREE };

/* One claim, in the order of claiming: its bytes in the data area come back in this order. */
struct slot {
	uint64_t end; /* of its bytes, free running */
	uint64_t seq;
	uint16_t stream;
	uint8_t level;
	uint8_t state; /* enum slot_state */
	uint32_t life; /* of the link, when it was claimed: in whose area its bytes are until it is committed */
};

/* What a slot's frame said, for those that may be sent again. */
struct kept {
	int64_t time_ns;
	uint32_t at; /* first byte, in the area */
	uint32_t partition;
	uint32_t len;
	uint32_t extra;
	uint32_t tag_hash;
	uint16_t key_len;
	uint16_t reserved;
};

/* A connection that is lost, of which the app still holds something. */
struct former {
	struct former *next;
	struct thmqi_link *wire;
	uint32_t life;
	uint32_t views;  /* runs */
	uint32_t claims; /* open */
};

/* The last message of a link, if others like it may come: series.h. */
struct series {
	struct thmqi_frame *frame; /* of which it is one; NULL: of none */
	const uint8_t *next;       /* where the bytes of the next one would lie; NULL: none may come */
	uint64_t seq;              /* its sequence */
	uint32_t life;             /* of the link */
	uint32_t stream, partition, len;
	uint32_t more; /* messages behind the frame's own */
	uint8_t level;
};

struct client_link {
	struct thmqi_link *wire;
	struct thmq_session *session;
	uint32_t shard;
	bool up; /* WELCOME came, and all that was out before was sent again */
	int dead; /* error; 0: alive */
	/* a connection that was lost: resume.c */
	bool astray;             /* away, or not all was sent again: resume.c has to do with it */
	bool away;               /* wire is over, and another is looked for */
	bool seen_due;           /* SEEN found no room */
	uint32_t life;           /* connections before this one */
	uint32_t tries;          /* since it was lost */
	uint64_t lost_ns;        /* since when */
	uint64_t retry_ns;       /* when to try again */
	int error;               /* of the last try */
	int lost_error;          /* why it was lost */
	uint64_t incarnation;    /* of the broker that it leads to, or led */
	struct thmqi_link *next; /* the next wire, which has not welcomed us yet */
	struct former *formers;
	struct kept *kept;       /* by slot; NULL: nothing is ever sent again */
	uint32_t *again;         /* slots to be sent again, in order; NULL: none */
	uint32_t again_at, again_count;
	uint64_t refused, refused_told; /* REJECTs of this connection; of which the broker knows that they were taken */
	uint32_t len_max; /* largest message that the broker takes */
	uint32_t len_max_volatile; /* likewise, on a volatile topic */
	/* claims */
	struct slot *slots;
	uint32_t slot_mask;
	uint32_t slot_head, slot_tail; /* next to be made, oldest; free running */
	uint64_t area_head, area_tail; /* free running */
	struct series series;
	uint64_t progress[THMQI_STREAMS][THMQ_DURABILITY_ALL + 1]; /* by level; 0: durable, though told of less */
	/* the one request that may be out */
	uint64_t request_id;
	bool replied;
	int reply_status;
	/* runs to be given back: some are gathered, since each is a round of the core; or the ring had no room */
	struct delivered *unreleased;
	uint32_t unreleased_count;
	uint32_t unreleased_idle; /* rounds without news since the last was added */
	uint32_t taken_alone;     /* frames by thmqi_session_take_next() */
};

/* ---------------------------------------------------------------- consumers */

struct assembly;
struct expanded; /* encoded.c */
struct unpacked;
struct thmqi_pack;
struct thmqi_attributes;
struct selection; /* select.c */
struct ranks;     /* ranks.c */
struct asking;    /* request.c */
struct answering; /* reply.c */
struct unstored;  /* shared.c */

#define HELD_BITS 4096u /* records of a run that are told apart; in longer ones every so many are one */

#define VIEW_MARK 0x7400u /* with the stream, in the upper 16 bits of a view: whose it is */

/* A run handed over by the broker. */
struct delivered {
	struct delivered *next; /* in the queue, the free list, or waiting to be released */
	struct thmq_consumer *consumer;
	struct client_link *link;
	const struct thmqi_link *wire; /* by which it came: perhaps one that is lost */
	struct reading *reading; /* NULL: of a partition that is not known (any more) */
	uint64_t token;
	const struct thmq_run_header *run;
	uint64_t base_offset; /* of the run */
	int64_t first_time_ns; /* likewise */
	int64_t last_time_ns;  /* likewise, of one that is encoded */
	const struct thmq_record *record; /* the next one; NULL: of a run that is encoded, body to end is its payload */
	struct thmq_record one; /* of a run that came with its record in the frame */
	const uint8_t *body, *end;
	const uint32_t *deltas; /* offsets, if sparse */
	const int64_t *times; /* of each record; NULL: they are in the table */
	uint64_t *held_bits; /* which records the app has: HELD_BITS of them */
	uint32_t bytes; /* of the run: it may be gone when the record is put back */
	uint64_t from, to; /* offsets wanted */
	uint32_t at, count; /* records handed out, of */
	uint32_t credit; /* messages that the broker counts for it */
	uint32_t encoding; /* enum thmq_run_encoding */
	uint32_t held; /* messages that the app has */
	uint32_t generation; /* of this record's use, to know stale views; never 0 in a view */
	bool queued;
	bool former; /* its connection is lost: nobody wants it back */
	uint32_t deliveries; /* shared: how often these were handed out */
	uint64_t expires_ns; /* shared: what the app has not seen by then is somebody else's */
	struct assembly *whole; /* the message, if the run was its last part; else NULL */
	struct unpacked *unpacked; /* memory of messages that were packed; NULL: none was */
	struct expanded *expanded; /* likewise of a run that is encoded */
	/* of a THMQ_RUN_PACKED, whose block lies at end */
	struct thmqi_block block;
	const uint8_t *raw; /* the payloads in it; NULL: it was not looked into yet */
	struct unpacked *raw_room; /* where these are; NULL: in the run itself */
};

enum reading_state {
	READING_NONE,
	READING_WANTED, /* the link is not up yet */
	READING_ATTACHING,
	READING_ON,
	READING_DRAINING, /* asked back: the app still holds messages, or its acks are not stored */
	READING_DETACHING
};

/* One partition of a consumer's topic. */
struct reading {
	struct thmqi_list due_link; /* of the consumer; linked while something found no room */
	struct thmq_consumer *consumer;
	struct client_link *link;
	uint32_t partition; /* id */
	uint32_t index; /* in the topic */
	uint32_t shard;
	uint32_t priority; /* of its messages */
	uint32_t state; /* enum reading_state */
	uint32_t generation; /* of seeks */
	uint32_t group_id;
	uint64_t epoch;
	uint64_t held; /* messages that the app has */
	uint64_t handed; /* one past the last message that the app was given */
	uint64_t resume; /* the next that it gets: where to go on */
	bool resumes;    /* that counts, though the connection is lost, or its epoch is another by now */
	int64_t not_before_ns; /* skip messages stored earlier; INT64_MIN: none */
	uint64_t ack_next, ack_sent, ack_stored; /* UINT64_MAX: none */
	bool ack_dirty;
	bool ack_unsure; /* it was lost with acks out: the shard's answer to a DETACH comes behind those that it refuses */
	int ack_error; /* why ack_sent cannot be stored now; 0 */
	uint64_t limited_told_ns; /* when the app was told that a limit holds it up */
	int shard_error; /* its shard has failed: nothing will be stored any more; 0 */
	bool revoke_asked; /* while attaching */
	bool revoked_due;  /* it is let go of, which the broker was not told for want of room */
	bool detach_due; /* of detach_epoch, for which the ring had no room */
	uint64_t detach_epoch;
	bool seek_done; /* false: the answer to a seek is still to come */
	int seek_status;
	uint64_t seek_begin, seek_end;
	struct assembly *parts; /* of a message that is not whole yet; NULL: none */
	int64_t seek_not_before_ns; /* not_before_ns once it is done */
	int status; /* of the last attach */
	/* of a shared group: shared.c */
	uint64_t settle_from, settle_to; /* acks that were not sent yet; none where both are the same */
	uint32_t settle_sent, settle_stored; /* serials of acks */
	struct unstored *unstored; /* those that are on their way; NULL: where they are lost, that is all */
	/* how far the newest run was gone through: another part of it may come, from there on */
	struct {
		uint64_t base_offset;
		uint32_t count, len;  /* of all of it */
		uint32_t index, body; /* the next record, and where in it that one's body begins */
	} gone_through;
};

#define GROWTHS 16u /* each at least doubles what there is room for: enough for THMQ_PARTITION_COUNT_MAX */

struct readings_added {
	uint32_t begin, end;
	struct reading at[];
};

struct wanted_tag {
	const char *bytes;
	uint32_t len, reserved;
};

#define LONE_BEFORE 8u /* who gets so many messages one by one waits for each */

struct thmq_consumer {
	struct thmqi_handle handle;
	struct thmq_session *session;
	struct thmq_consumer_opts opts;
	uint32_t stream;
	uint32_t topic_id;
	bool grouped;
	bool shared; /* its group is: grouped is not set then */
	uint32_t clock_lead_ms; /* shared: our clock less the broker's, as the fastest frame told */
	uint64_t clock_ns;      /* when that was looked at; 0: not yet */
	struct dead_letters *dead; /* shared: NULL: they are dropped */
	bool dead_due;    /* shared: some of its runs are dead */
	uint32_t burying; /* shared: a dead run is on its way; it is not looked for others meanwhile */
	uint64_t *backoff_ns;      /* shared: opts.backoff_count of them */
	bool odd;     /* each message has to be looked at before it is handed out */
	uint64_t ttl_ns; /* of messages that have none of their own; 0: none. Then it is odd */
	struct wanted_tag *tags; /* opts.tag_count of them: messages with others are stepped over. NULL: none */
	uint64_t tag_filter;     /* of these and of the filter, as thmq_tag_filter() */
	struct selection *selection; /* its filter; NULL: it wants all */
	struct ranks *ranks; /* NULL: the topic has no priorities */
	uint32_t priorities; /* 0: likewise */
	uint32_t share_count; /* of opts.prefetch_count and … */
	uint64_t share_bytes; /* … prefetch_bytes, what each priority has */
	bool hidden;  /* the app knows nothing of it, and hears nothing: request.c; THMQI_CONSUMER_HIDDEN */
	bool rejoin;  /* its JOIN has to be said again */
	bool closing; /* takes no partition any more */
	bool fenced; /* an ack was refused since the last flush */
	bool doubted; /* shared: acks were lost with a connection and sent again; what they are of may have come meanwhile */
	bool stalled; /* told that the app holds everything */
	int error; /* what fetch returns from now on; 0 */
	bool error_told; /* fetch has returned it */
	char topic[256];
	char group[256];
	char instance[THMQ_INSTANCE_MAX + 1]; /* "": none */
	uint64_t member; /* in its group; 0: it does not come back */
	uint32_t group_id;   /* as it was told when it joined; 0: not told */
	uint64_t group_life; /* of the broker that told it */
	struct reading *readings; /* readings_made of them; those that came later are in added: growth.c. Where one is it stays */
	uint32_t reading_first; /* 0; of THMQ_CONSUMER_PARTITION the only one there is, however many the topic has */
	uint32_t reading_count, readings_made; /* one past the last; … of those in readings */
	uint32_t began_count; /* as many there were when it was opened, or its group was made: who begins at the end reads later ones from their beginning */
	bool opened;           /* all of these are attached, or asked for */
	bool grows;            /* there may be more: they are asked for */
	struct readings_added *added[GROWTHS];
	/* ids: reading i is of partition bases[k] + i, of some k; with each range of ids that its topic has there is another one */
	uint32_t bases[GROWTHS + 1], base_count;
	uint32_t awaited; /* readings below it have come to what is waited for */
	struct thmqi_list due; /* readings that tend() looks at */
	struct delivered *first, **last; /* queue */
	struct client_link *lone_link; /* by which messages came one by one … */
	uint32_t lone;                 /* … up to LONE_BEFORE of them */
	struct delivered *free;
	struct delivered *pool; /* mostly memory that is never touched */
	uint64_t *held_bits;
	uint32_t pool_count, pool_used; /* records there are, and were ever taken */
	uint32_t former_count; /* of these, in use for runs of connections that are lost */
	uint32_t live_max;     /* how many the broker may have out */
	uint64_t held_bytes, held_count; /* delivered and not given back */
	uint64_t app_held; /* of these, messages in the app's hands */
	uint64_t whole_bytes; /* of messages that were put together or unpacked, and not given back; of a topic with priorities also of runs that are half way through */
	bool full;            /* more of these than prefetch_bytes: the next one waits */
	bool unsaid;          /* shared: it waits, but only for room to say what became of one that cannot be read */
	struct unpacked *blocks; /* memory for the next packed messages */
	uint32_t block_count;
	/* shared: what was unpacked last, of a run that more may come of */
	struct {
		struct unpacked *at; /* NULL: nothing */
		const struct reading *reading;
		uint64_t base_offset;
		uint32_t len, crc; /* of all of it */
	} kept_block;
	struct thmqi_pack *unpackers[THMQ_COMPRESSION_ZSTD + 1]; /* by codec; NULL: none of it came yet */
};

/* ---------------------------------------------------------------- producers */

/*
 * An outstanding sequence. The ring of them is memory that is never touched as long as all is as usual: what went to the usual
 * shard at the usual level is zero.
 */
struct sent {
	union {
		struct {
			uint16_t shard; /* XOR the usual one */
			uint8_t level;  /* likewise */
			uint8_t failed; /* SENT_* */
		};
		uint32_t word;
	};
};

#define SENT_FAILED 1u   /* and told so */
#define SENT_SETTLED 2u  /* on a connection that is lost: it is not sent again */
#define SENT_REPORTED 4u /* its event was made */

struct thmq_producer {
	struct thmqi_handle handle;
	struct thmq_session *session;
	uint32_t stream;
	uint32_t level; /* default */
	uint32_t topic_id;
	uint32_t partition_count;
	uint32_t lanes, priorities; /* partitions of each priority; priorities, 1 where the topic has none */
	uint32_t epoch; /* without an id one of the session's own numbers */
	uint64_t id; /* what it sends may be sent again; 0: it has none */
	bool report, is_volatile;
	bool is_consumers; /* it sends its dead letters */
	uint32_t compression; /* enum thmq_compression */
	struct thmqi_pack *pack; /* NULL: what it sends goes as it is */
	uint32_t pack_min;       /* bytes of a payload from which on it is packed */
	uint32_t pack_pause, pack_pauses; /* batches that go as they are before the next is tried; … since so many in a row did not become smaller */
	bool hidden;       /* the app knows nothing of it, and hears nothing: reply.c */
	int error; /* the topic is gone, the shard failed */
	void *cookie;
	struct thmqi_partition_entry *partitions; /* in rising order of ids */
	bool grows; /* there may be more: they are asked for */
	uint64_t limited_until_ns; /* a limit holds it up; as the broker told last */
	uint64_t limited_told_ns;  /* when the app was */
	struct sent *sent;            /* ring by sequence */
	struct sent usual, last_sent; /* as they are */
	uint32_t sent_mask;
	uint64_t last_seq, watermark;
	uint64_t uniform_from; /* from this sequence on all went to one shard at one level */
	uint64_t failed; /* since the last flush */
	uint32_t open_claims;
	uint32_t reports_due; /* of the session's: this producer's */
	uint32_t next_partition, sticky_count; /* round robin */
	uint32_t sticky_bytes;
};

/* ---------------------------------------------------------------- sessions */

struct thmq_session {
	struct thmqi_handle handle;
	struct thmq_env *env;
	struct thmqi_transport *transport;
	struct thmqi_graveyard *graveyard;
	struct thmq_session_opts opts;
	struct thmqi_waiter *waiter;
	char *url;
	struct thmqi_tls_config *tls; /* NULL: none */
	struct client_link **links; /* by shard; NULL: not connected */
	uint32_t shard_count;
	uint64_t incarnation; /* of the broker */
	int dead; /* error; 0: alive */
	uint64_t next_request;
	uint32_t lives; /* of producers */
	uint64_t news; /* frames taken in */
	struct thmq_producer *producers[THMQI_STREAMS];
	struct thmq_consumer *consumers[THMQI_STREAMS];
	uint32_t consumer_end; /* streams from it on were never a consumer's */
	uint8_t unsafe[THMQI_STREAMS]; /* streams that something late may still arrive for: not used again */
	bool leave_due[THMQI_STREAMS]; /* LEAVE is to be sent for a consumer that is gone */
	uint64_t leavers[THMQI_STREAMS]; /* and over each connection to come, since nobody knows whether it has arrived: for this member; 0: none */
	struct thmq_event *events;
	uint32_t event_mask;
	uint32_t event_head, event_tail; /* free running */
	uint32_t event_told; /* head when the app last heard that something is there */
	uint32_t reports_due; /* events promised for claims and messages that are out */
	uint64_t dropped;
	int closed_due; /* the error that CLOSED still has to tell */
	bool connected; /* it was: a connection that is lost may be made again */
	bool has_ids;   /* a producer with an id */
	uint32_t away_count; /* links that are */
	uint64_t identity; /* of the broker's data */
	/* where that may be: nodes.c */
	struct thmqi_node_entry *nodes;
	uint32_t node_count, node_at;
	char *given;  /* by the application: nodes.c */
	bool learned; /* one of them told the others */
	uint64_t leader;   /* of them, as one of them said; 0 */
	uint32_t level;    /* that a message waits for which says nothing: DURABLE, with copies QUORUM */
	bool reads_only;   /* nobody leads: what is committed can be read, and nothing stored */
	uint32_t asked;    /* of the first connection: brokers that did not lead */
	uint64_t rejoin_id; /* request that is out for a consumer, without anybody who waits; 0 */
	uint32_t rejoin_stream;
	uint64_t growth_id; /* likewise, for those who use a topic that may have more partitions by now; 0 */
	uint32_t growth_topic, growth_from;
	uint32_t growths;   /* how often it was heard of that some topic has more */
	bool growing;       /* somebody grows, or will ask */
	struct thmqi_prng prng;
	struct asking *asking;       /* request.c; NULL: it never asked */
	uint32_t requests_out;       /* of its requests, those that have no answer */
	struct answering *answering; /* reply.c; NULL: it never answered */
	struct thmq_txn *txns;       /* txn.c: those that are open */
	bool untended; /* a consumer, or resume.c, has something to send that found no room */
};

/* The session is alive: groups take a member for dead whose beat stands still. In calls that may do without process(). */
static inline void thmqi_session_beat(struct thmq_session *s)
{
	_Atomic uint32_t *beat = s->links[THMQI_SHARD_META]->wire->pulse;

	atomic_store_explicit(beat, atomic_load_explicit(beat, memory_order_relaxed) + 1, memory_order_relaxed);
}

#define LIMITED_NS 1000000000u /* so often at most the app is told that a limit holds something up */

/* session.c */
/* How a link of @shard is made: whenever, and always the same. */
int thmqi_session_prepare(struct thmq_session *s, uint32_t shard, struct thmqi_link_opts *ret_opts);
int thmqi_session_link(struct thmq_session *s, uint32_t shard, struct client_link **ret_link); /* makes it; may be not up */
int thmqi_session_wait_up(struct thmq_session *s, struct client_link *l, uint64_t deadline);
/* A link of a blocking call: while the connection that has to go first is away, or the broker is found to be gone, it waits for another one. */
int thmqi_session_link_wait(struct thmq_session *s, uint32_t shard, uint64_t deadline, struct client_link **ret_link);
/* Room for a control frame, waited for. */
int thmqi_session_ctl_claim(struct thmq_session *s, struct client_link *l, uint64_t deadline,
			    struct thmqi_frame **ret_frame);

/* take.c */
uint32_t thmqi_session_process(struct thmq_session *s); /* frames taken in */
/* The next frame of @l alone, if it is there, for who waits for messages that come one by one. False: look at all links. */
bool thmqi_session_take_next(struct client_link *l);
void thmqi_session_event(struct thmq_session *s, const struct thmq_event *e); /* counts it as dropped when full */
bool thmqi_session_events_full(const struct thmq_session *s);
bool thmqi_session_welcome(struct thmq_session *s, struct client_link *l, const struct thmqi_frame *f); /* false: l->error */
void thmqi_session_died(struct thmq_session *s, int error);

/* wait.c */
uint64_t thmqi_session_now(struct thmq_session *s);
int64_t thmqi_session_wall(struct thmq_session *s); /* ns since 1970 */
uint64_t thmqi_session_deadline(struct thmq_session *s, uint64_t timeout_ns);
bool thmqi_session_stuck(struct thmq_session *s); /* a blocking call would be -EDEADLK */
int thmqi_session_block(struct thmq_session *s, bool (*done)(void *arg), void *arg, uint64_t deadline);
/* Goes on for so long, and not beyond the deadline. 0; -ETIMEDOUT that has come; -ESHUTDOWN, -EDEADLK */
int thmqi_session_rest(struct thmq_session *s, uint64_t ns, uint64_t deadline);

/* calls.c */
int thmqi_session_request(struct thmq_session *s, struct client_link *l, const struct thmqi_request *request,
			  uint64_t deadline, const struct thmqi_reply **ret_reply);
int thmqi_session_meta(struct thmq_session *s, const struct thmqi_request *request,
		       const struct thmqi_reply **ret_reply);
int thmqi_session_topic(struct thmq_session *s, const char *name, enum thmqi_purpose purpose,
			struct thmqi_topic_entry *ret_entry);
const char *thmqi_session_why(int error); /* in words, where a broker's answer is one */
int thmqi_session_partitions(struct thmq_session *s, uint32_t topic_id, uint32_t first, uint32_t count,
			     struct thmqi_partition_entry **ret_entries);

/* nodes.c */
int thmqi_nodes_init(struct thmq_session *s, const char *urls); /* one, or several with commas between. The first is s->url */
void thmqi_nodes_learn(struct thmq_session *s, const struct thmqi_reply *reply);
bool thmqi_nodes_may_go(const struct thmq_session *s, int error); /* could it be better elsewhere? */
bool thmqi_nodes_go(struct thmq_session *s, int error); /* s->url is another. True: the one that leads, as was said */

/* resume.c: a connection that is lost is made again, and goes on where it was */
bool thmqi_resume_begin(struct client_link *l, int error); /* false: it is over */
void thmqi_resume_step(struct client_link *l); /* of a link that is away, or still sends again */
void thmqi_resume_tend(struct thmq_session *s); /* once all links were looked at: what is due for the sake of resumption */
uint64_t thmqi_resume_nap_ns(const struct thmq_session *s); /* how long may be slept */
bool thmqi_resume_replied(struct thmq_session *s, uint64_t request, int status); /* true: it was one of nobody who waits */
/* A claim that was made before: its bytes come into the area of now. */
uint8_t *thmqi_resume_claim(struct client_link *l, struct slot *slot, uint8_t *first, uint32_t len);
void thmqi_resume_claim_end(struct client_link *l, uint32_t life); /* of an earlier life: committed, or aborted */
void thmqi_resume_view_end(struct client_link *l, const struct thmqi_link *wire); /* the last of a run that came by it */
void thmqi_resume_refused(struct client_link *l); /* a REJECT was taken */
void thmqi_resume_fini(struct client_link *l);

/* alarm.c: whoever sleeps by @waiter then is woken. Where there is no memory nobody is. */
void thmqi_alarm(struct thmq_core *core, struct thmqi_waiter *waiter, uint64_t at_ns);

bool thmqi_slot_is_settled(const struct client_link *l, const struct slot *slot); /* send.c */

/* settle.c */
int thmqi_producer_settle(struct thmq_producer *p, uint64_t deadline); /* all is stored, or failed */
void thmqi_producer_promise_kept(struct thmq_producer *p); /* an event that was promised room is there, or not needed */
/* Nobody leads, or somebody does again: new messages are refused, or not. Those that were committed go once they can. */
void thmqi_producers_refuse(struct thmq_session *s, bool refuse);
/* The connection that @p's messages went by is lost: those that settled by it are, whatever is sent again. */
void thmqi_producer_resume(struct thmq_producer *p, const struct client_link *l);
void thmqi_producer_settled(struct thmq_producer *p, struct client_link *l, const struct thmqi_frame *f);
void thmqi_producer_limited(struct thmq_producer *p, const struct thmqi_frame *f);
void thmqi_producer_rejected(struct thmq_producer *p, struct client_link *l, const struct thmqi_frame *f);
void thmqi_producer_weaker(struct thmq_producer *p, const struct thmqi_frame *f);
void thmqi_producer_trouble(struct thmq_session *s, const struct thmqi_frame *f);
void thmqi_producer_lost(struct thmq_producer *p, const struct thmqi_frame *f);
/* The broker behind @l died, or may have: what was acknowledged at less than durable, and not heard to be, is in doubt. */
void thmqi_producers_doubt(struct client_link *l, int error);

/* Control frames: claim, fill all but turn, commit. NULL: no room, or the link is not up. */
static inline struct thmqi_frame *thmqi_ctl_claim(struct client_link *l)
{
	return l && l->up && !l->dead ? thmqi_frame_claim(&l->wire->ctl, 0) : NULL;
}

static inline void thmqi_ctl_commit(struct client_link *l)
{
	thmqi_frame_commit(&l->wire->ctl);
	thmqi_link_kick_broker(l->wire);
}

/* growth.c: partitions that a topic gets while it is in use */
int thmqi_readings_make(struct thmq_consumer *c, uint32_t count); /* so many there are from now on; those that there were stay. 0; -ENOMEM */
int thmqi_reading_make_lone(struct thmq_consumer *c, uint32_t index, uint32_t count); /* of @count that the topic has. 0; -ENOMEM */
void thmqi_readings_free(struct thmq_consumer *c);
struct reading *thmqi_reading_added(const struct thmq_consumer *c, uint32_t index);
void thmqi_growth_heard(struct thmq_session *s, uint32_t topic_id, uint32_t count);
void thmqi_growth_look(struct thmq_session *s); /* something may have been missed */
void thmqi_growth_tend(struct thmq_session *s);
bool thmqi_growth_replied(struct thmq_session *s, uint64_t request, int status); /* true: it was one of that file's */

static inline bool thmqi_reading_is_there(const struct thmq_consumer *c, uint32_t index)
{
	return index - c->reading_first < c->reading_count - c->reading_first;
}

/* @index is there */
static inline struct reading *thmqi_reading(const struct thmq_consumer *c, uint32_t index)
{
	return thmqi_likely(index < c->readings_made) ? &c->readings[index - c->reading_first] : thmqi_reading_added(c, index);
}

/* reading.c: the partitions of a consumer */
void thmqi_reading_place(struct reading *r, uint32_t partition); /* its id */
void thmqi_consumer_frame(struct thmq_consumer *c, struct client_link *l, const struct thmqi_frame *f);
void thmqi_consumers_tend(struct thmq_session *s); /* what found no room before */
void thmqi_consumer_link_up(struct thmq_session *s);
void thmqi_consumer_leave(struct thmq_session *s, uint32_t stream); /* as soon as there is room, and without an answer */
void thmqi_consumer_tell(struct thmq_consumer *c, uint32_t type, const struct reading *r, int error,
			 uint64_t offset);
bool thmqi_reading_attach(struct reading *r); /* false: not now, tend() tries again */
void thmqi_reading_close(struct reading *r); /* let go of it whoever holds messages */
bool thmqi_reading_ack(struct reading *r); /* false likewise */
void thmqi_reading_lost(struct reading *r); /* its link is */
bool thmqi_reading_is_ours(const struct reading *r);
bool thmqi_reading_later(struct reading *r); /* tend() looks at it; false */

void thmqi_consumer_join(const struct thmq_consumer *c, struct thmqi_request *ret);
void thmqi_consumer_joined(struct thmq_consumer *c, const struct thmqi_reply *reply); /* its answer, if that was good */
void thmqi_consumer_expelled(struct thmq_consumer *c, int error); /* it has no part in its group any more, and nothing that it read */
/* Its topic had so many partitions when its group was made; 0: that is not known. */
void thmqi_consumer_began(struct thmq_consumer *c, uint32_t partitions);
int thmqi_consumer_attach_all(struct thmq_consumer *c, uint64_t deadline); /* consumer.c */

/* shared.c: members of shared groups */
int thmqi_shared_ack(struct thmq_consumer *c, const struct thmq_message *message);
bool thmqi_shared_ack_send(struct reading *r); /* what was gathered; false: no room */
void thmqi_shared_ask(struct reading *r); /* are acks that could not be stored stored now? One of them is made again, and answered as all are */
bool thmqi_shared_acks_stored(const struct reading *r);
void thmqi_shared_attaching(struct reading *r, uint32_t start, struct thmqi_frame *f);
void thmqi_shared_attached(struct reading *r, const struct thmqi_frame *f);
void thmqi_shared_settled(struct reading *r, const struct thmqi_frame *f);
/* What was said on its connection may not have been heard. @again: acks are said again once there is another. */
void thmqi_shared_lost(struct reading *r, bool again);
void thmqi_shared_fini(struct reading *r);
void thmqi_shared_delivered(struct thmq_consumer *c, struct delivered *d, const struct thmqi_frame *f);
void thmqi_shared_return(struct thmq_consumer *c, const struct delivered *d); /* what the app has not seen of it */
bool thmqi_shared_skips(struct thmq_consumer *c, struct delivered *d); /* one that is not dead, and is not for the app any more */
bool thmqi_shared_is_dead(const struct thmq_consumer *c, const struct delivered *d); /* it was handed out too often */
void thmqi_shared_bury(struct thmq_consumer *c, struct delivered *d); /* such a one, that is in no queue */
void thmqi_shared_over(struct thmq_consumer *c, struct delivered *d, const struct thmq_message *m, uint32_t flags); /* its tag or its time is none for the app */
/*
 * Of @d, those from @first to @last cannot be read, for @error: they are a failed delivery, or done if there were as many as may be. What another
 * member may be able to read is given back for a while. False: there is no room to say so now
 */
bool thmqi_shared_unread(struct thmq_consumer *c, struct delivered *d, uint64_t first, uint64_t last, int error);
int thmqi_shared_say_done(struct thmq_consumer *c, uint32_t partition, uint64_t first, uint64_t last); /* as acked. -EAGAIN; -THMQ_EFENCED */
int thmqi_shared_put_off(struct thmq_consumer *c, uint32_t partition, uint64_t first, uint64_t last, uint64_t delay_ns);

static inline uint64_t thmqi_shared_last(const struct thmq_message *m)
{
	return m->offset + THMQI_MAX(m->span, 1u) - 1;
}
int thmqi_shared_join(struct thmq_consumer *c, const char *group, uint64_t deadline);

/* request.c, reply.c */
#define THMQI_CONSUMER_HIDDEN (1u << 31) /* of a consumer's options: from its first event on */
void thmqi_asking_tend(struct thmq_session *s, bool taken); /* of one that has asked; @taken: there was something to do */
void thmqi_asking_arm(struct thmq_session *s);  /* its thread may sleep: it is woken when something is due */
uint64_t thmqi_asking_nap_ns(const struct thmq_session *s);
void thmqi_asking_close(struct thmq_session *s, uint64_t deadline);
void thmqi_answering_close(struct thmq_session *s, uint64_t deadline);

/* dead.c: where messages of a shared group go that were handed out too often */
int thmqi_dead_open(struct thmq_consumer *c, const char *topic);
int thmqi_dead_put(struct thmq_consumer *c, const struct thmq_message *m, uint32_t deliveries, const char *reason); /* -EAGAIN */
void thmqi_dead_tend(struct thmq_consumer *c); /* those that are stored are done */
bool thmqi_dead_is_out(const struct thmq_consumer *c); /* some are on their way */
int thmqi_dead_flush(struct thmq_consumer *c, uint64_t timeout_ns);
void thmqi_dead_close(struct thmq_consumer *c);

/* select.c: a consumer's filter */
int thmqi_select_open(struct thmq_consumer *c, const char *text); /* 0; -EINVAL and a text; -ENOMEM */
void thmqi_select_close(struct thmq_consumer *c);
bool thmqi_select_say(struct thmq_consumer *c, struct client_link *l); /* before an ATTACH; false: not all found room */
bool thmqi_select_wants(const struct thmq_consumer *c, const struct thmq_message *m);

/* ranks.c: of a topic with priorities, the order of runs in c->first. Of a consumer that has ranks, but for _open and _close */
int thmqi_ranks_open(struct thmq_consumer *c, uint32_t count); /* 0; -ENOMEM */
void thmqi_ranks_close(struct thmq_consumer *c);
void thmqi_ranks_renew(struct thmq_consumer *c); /* others have taken runs out */
void thmqi_ranks_add(struct thmq_consumer *c, struct delivered *d);
void thmqi_ranks_remove(struct thmq_consumer *c, struct delivered **at);
/* Where the run lies whose turn it is, NULL there: none. @most: how many of its messages, at most; in: of any */
struct delivered **thmqi_ranks_choose(struct thmq_consumer *c, uint32_t *most);
void thmqi_ranks_count(struct thmq_consumer *c, struct delivered *const *at, uint32_t n); /* so many messages of it went; it is still there */
void thmqi_ranks_hold(struct thmq_consumer *c, const struct delivered *d);
void thmqi_ranks_let_go(struct thmq_consumer *c, const struct delivered *d);
bool thmqi_ranks_full(const struct thmq_consumer *c); /* of some priority nothing can come before something is given back */

/* runs.c: the runs that were handed over */
int thmqi_runs_init(struct thmq_consumer *c); /* 0; -ENOMEM */
void thmqi_runs_fini(struct thmq_consumer *c);
void thmqi_runs_deliver(struct thmq_consumer *c, struct client_link *l, struct reading *r,
			const struct thmqi_frame *f);
void thmqi_run_put(struct thmq_consumer *c, struct delivered *d); /* all of the run is done with */
void thmqi_runs_drop(struct thmq_consumer *c, struct reading *r); /* those that the app has not seen */
void thmqi_runs_lose(struct thmq_consumer *c, struct client_link *l); /* its connection is lost: those that the app has not seen go */
bool thmqi_runs_give_back(struct thmq_consumer *c); /* all, held or not; false: there was no room for some */
void thmqi_releases_tend(struct client_link *l, uint32_t news); /* of a link that has some */
void thmqi_releases_along(struct client_link *l); /* a message goes, by a medium with packets: with it */
void thmqi_releases_flush(struct thmq_session *s); /* before the session's thread sleeps */
/* What lies in a run may be another process's to change: what was checked is not read again. */
#define thmqi_read_once(x) (*(const volatile __typeof__(x) *)&(x))
/* After that the memory of its runs may be gone: it went with the broker. */
static inline bool thmqi_link_is_gone(const struct client_link *l)
{
	return atomic_load_explicit(&l->wire->broker_closed, memory_order_acquire) != 0;
}

/* fetch.c: messages of these */
bool thmqi_run_next(struct thmq_consumer *c, struct delivered *d, struct thmq_message *ret_message); /* the app has it then */
uint64_t thmqi_run_next_offset(const struct delivered *d); /* of the first record that was not handed out */
void thmqi_runs_bury(struct thmq_consumer *c); /* those that were handed out too often */
/* In every view: which use of which record, whose, and which message of the run. */
uint64_t thmqi_view_of(const struct thmq_consumer *c, const struct delivered *d, uint32_t index);
bool thmqi_view_is_held(const struct thmq_consumer *c, const struct thmq_message *m); /* views.c */

/* unpack.c: messages that were packed */
/* More of what was put together or unpacked than the app may hold? To be asked where it holds some: who holds nothing gets one always, whatever runs of other priorities keep. */
bool thmqi_whole_is_too_much(struct thmq_consumer *c, uint64_t more);
/* The payload of @m, one of @d, is unpacked: 0; -ENOBUFS the app holds too much; -EOPNOTSUPP; -ENOMEM; -THMQ_ECORRUPT; -THMQ_EVERSION no such codec is known */
int thmqi_message_unpack(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m, const struct thmqi_attributes *a);
void thmqi_unpacked_drop(struct thmq_consumer *c, struct delivered *d);
void thmqi_unpacked_fini(struct thmq_consumer *c); /* all runs are given back */
/* Likewise of a message whose payload is in the block of its run, which is unpacked once, and kept as long as the run. */
int thmqi_message_of_block(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m, const struct thmqi_attributes *a);
void thmqi_block_drop(struct thmq_consumer *c, struct delivered *d);

/* encoded.c: runs that are no records */
/* Its records become messages: d->record … are of them then. 0; -ENOBUFS the app holds too much; -EOPNOTSUPP; -ENOMEM; -THMQ_ECORRUPT */
int thmqi_encoded_expand(struct thmq_consumer *c, struct delivered *d);
void thmqi_expanded_drop(struct thmq_consumer *c, struct delivered *d);
/* All of @d as it is. Return: 1; 0 it is not wanted */
uint32_t thmqi_encoded_hand_out(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m);

/* parts.c: messages that were stored in parts */
/*
 * @m is a part, with the bytes behind its tag as payload. 1: it was the last, and @m is the whole message likewise, with *@ret_flags; 0: it is not whole;
 * -ENOBUFS the app holds too many; -ENOMEM; -THMQ_ECORRUPT
 */
int thmqi_part_take(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m, uint32_t *ret_flags);
void thmqi_parts_drop(struct reading *r);
void thmqi_whole_drop(struct thmq_consumer *c, struct delivered *d); /* it is not needed any more */

bool thmqi_consumer_has_news(const struct thmq_consumer *c);

#endif
