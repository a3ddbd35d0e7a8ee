/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mailbox.c - messages from one core to another: a ring of cache lines with one writer and one reader.
 *
 * A message is a line of 64 bytes whose first word, its turn, is written last: the lap of the ring that it belongs to. The
 * reader looks at the turn of the line that comes next and at nothing else, so that a message crosses in one transfer of one
 * line, and a look at an empty mailbox costs a load of a line that the reader has already. The reader tells how far it is only
 * after a quarter of the ring; the writer reads that only where the ring seems full.
 *
 * Waking: the turn is written at once, and a core that spins sees it. One that may sleep is kicked once, at the end of the
 * iteration in which it was written to: thmqi_mail_kick(). tests/sim/weak_memory_test.c goes through all interleavings of both.
 *
 * Opening and closing go as tasks through the inboxes of the two cores, in order: attach (receiver), detach (receiver, runs what is
 * left), gone (sender, frees). Knows nothing of what the messages mean.
 */
#include "internal.h"

#define DEPTH 256u /* the default: 16 KiB */

struct slot {
	_Atomic uint64_t turn; /* lap + 1 of the message in it; 0: never used */
	struct thmq_mail mail;
};
_Static_assert(sizeof(struct slot) == THMQI_CACHELINE, "a message is a cache line");

struct thmq_mailbox {
	/* the receiver's */
	struct slot *at;   /* the next message will be here, */
	uint64_t turn_due; /* and have this turn */
	struct thmq_mailbox *next_in;
	uint64_t next, published; /* messages taken; what tail says of it */
	struct slot *slots;
	uint32_t mask, shift;
	struct thmq_core *to;
	/* the sender's; apart by two lines, since they are fetched in pairs */
	_Alignas(2 * THMQI_CACHELINE) uint64_t head; /* messages sent */
	uint64_t tail_seen;
	struct slot *out;
	uint32_t out_mask, out_shift;
	struct thmq_core *from, *target; /* target: to, without a look at the receiver's lines */
	struct thmq_mailbox *next_owed;
	bool owed;  /* in the list of those that are to be kicked */
	bool asked; /* for room, and not told yet */
	bool closed;
	struct thmq_mailbox_opts opts;
	struct thmqi_list link; /* of the sender's core */
	/* both, seldom */
	_Alignas(2 *
		 THMQI_CACHELINE) _Atomic uint64_t tail; /* messages whose slots are free again */
	_Atomic uint32_t wants_room;
	struct thmqi_task attach, detach, room; /* attach is gone's too */
};

static struct loop *loop_by_poller(struct thmqi_poller *p)
{
	return thmqi_container(p, struct loop, mail.poller);
}

/* --------------------------------------------------------------- receiving */

static bool has_mail(const struct thmq_mailbox *box)
{
	return atomic_load_explicit(&box->at->turn, memory_order_acquire) == box->turn_due;
}

/* The slots behind us are free. Who waits for that is told: the fence pairs with that in ask_for_room(). */
static void publish(struct thmq_mailbox *box)
{
	box->published = box->next;
	atomic_store_explicit(&box->tail, box->next, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	if (thmqi_unlikely(atomic_load_explicit(&box->wants_room, memory_order_relaxed)) &&
	    atomic_exchange_explicit(&box->wants_room, 0, memory_order_acq_rel))
		thmqi_core_post(box->from, &box->room);
}

/* Run what is there, @budget messages at most. */
static uint32_t take(struct thmq_mailbox *box, uint32_t budget)
{
	uint32_t done = 0;

	while (done < budget && has_mail(box)) {
		box->at->mail.run(box->to, &box->at->mail);
		box->next++;
		box->at = &box->slots[box->next & box->mask];
		box->turn_due = (box->next >> box->shift) + 1;
		if (box->next - box->published > box->mask / 4)
			publish(box);
		done++;
	}
	return done;
}

static int mail_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct loop *l = loop_by_poller(p);
	uint32_t share = budget / l->mail.in_count + 1, done = 0;
	struct thmq_mailbox *box;

	for (box = l->mail.in; box; box = box->next_in)
		if (has_mail(box))
			done += take(box, share);
	if (done)
		thmqi_count_up(&l->mail.run, done);
	return (int)done;
}

static bool mail_arm(struct thmqi_poller *p)
{
	struct thmq_mailbox *box;

	for (box = loop_by_poller(p)->mail.in; box; box = box->next_in)
		if (has_mail(box))
			return true;
	return false;
}

/* The core ends: by now all that was sent has run. */
static void mail_end(struct thmqi_poller *p)
{
	thmqi_core_remove_poller(&loop_by_poller(p)->core, p);
}

uint32_t thmqi_mail_drain(struct loop *l)
{
	struct thmq_mailbox *box;
	uint32_t done = 0;

	for (box = l->mail.in; box; box = box->next_in)
		done += take(box, UINT32_MAX);
	thmqi_count_up(&l->mail.run, done);
	return done;
}

/* ----------------------------------------------------------- attach, detach */

static void run_attach(struct thmq_core *core, struct thmqi_task *task)
{
	struct thmq_mailbox *box = thmqi_container(task, struct thmq_mailbox, attach);
	struct loop *l = loop_of(core);

	box->next_in = l->mail.in;
	l->mail.in = box;
	if (l->mail.in_count++)
		return;
	l->mail.poller = (struct thmqi_poller){.poll = mail_poll, .arm = mail_arm, .end = mail_end};
	thmqi_core_add_poller(core, &l->mail.poller);
}

static void run_gone(struct thmq_core *core, struct thmqi_task *task)
{
	struct thmq_mailbox *box = thmqi_container(task, struct thmq_mailbox, attach);

	(void)core;
	thmqi_list_del(&box->link);
	free(box);
}

static void run_detach(struct thmq_core *core, struct thmqi_task *task)
{
	struct thmq_mailbox *box = thmqi_container(task, struct thmq_mailbox, detach), **at;
	struct loop *l = loop_of(core);

	thmqi_count_up(
		&l->mail.run,
		take(box, UINT32_MAX)); /* no more than its depth: the sender has closed it */
	for (at = &l->mail.in; *at != box;)
		at = &(*at)->next_in;
	*at = box->next_in;
	if (--l->mail.in_count == 0)
		thmqi_core_remove_poller(core, &l->mail.poller);
	/* behind a word of room, if that is still under way: tasks of one thread run in their order */
	box->attach.run = run_gone;
	thmqi_core_post(box->from, &box->attach);
}

/* ----------------------------------------------------------------- sending */

static void run_room(struct thmq_core *core, struct thmqi_task *task)
{
	struct thmq_mailbox *box = thmqi_container(task, struct thmq_mailbox, room);

	(void)core;
	box->asked = false;
	if (!box->closed)
		box->opts.room(box->opts.ctx);
}

static bool look_for_room(struct thmq_mailbox *box)
{
	box->tail_seen = atomic_load_explicit(&box->tail, memory_order_acquire);
	return box->head - box->tail_seen <= box->out_mask;
}

/* Full: be told when it is not any more. Either the reader sees the wish behind its next word of how far it is, or that word is seen
 * here. Return: there is room now. */
static bool ask_for_room(struct thmq_mailbox *box)
{
	if (box->asked)
		return false; /* a word may be on its way already, and then brings us here again */
	/* release: the task of the last word is the reader's to post again from here on, and was ours until now */
	atomic_store_explicit(&box->wants_room, 1, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	if (!look_for_room(box)) {
		box->asked = true;
		return false;
	}
	/* taken back; unless the reader was faster: then the word comes, for nothing */
	box->asked = !atomic_exchange_explicit(&box->wants_room, 0, memory_order_acq_rel);
	return true;
}

static void note_kick(struct loop *l, struct thmq_mailbox *box)
{
	if (!l->core.in_poll) {
		thmqi_core_kick(box->target); /* nobody knows when this core is driven next */
		return;
	}
	if (box->owed || !atomic_load_explicit(&box->target->may_sleep, memory_order_relaxed))
		return;
	box->owed = true;
	box->next_owed = l->mail.owed;
	l->mail.owed = box;
}

void thmqi_mail_kick(struct loop *l)
{
	struct thmq_mailbox *box;

	atomic_thread_fence(
		memory_order_seq_cst); /* turns before flags: pairs with the fence in arm */
	while ((box = l->mail.owed)) {
		l->mail.owed = box->next_owed;
		box->owed = false;
		if (atomic_load_explicit(&box->target->sleeping, memory_order_relaxed))
			thmqi_core_wake(box->target);
	}
}

int thmqi_mailbox_send(struct thmq_mailbox *box, const struct thmq_mail *mail)
{
	struct loop *l = loop_of(box->from);
	struct slot *slot;

	if (thmqi_unlikely(l->mail.shut))
		return -ESHUTDOWN;
	if (thmqi_unlikely(box->head - box->tail_seen > box->out_mask) && !look_for_room(box) &&
	    !(box->opts.room && ask_for_room(box))) {
		thmqi_count_up(&l->mail.refused, 1);
		return -EAGAIN;
	}
	slot = &box->out[box->head & box->out_mask];
	slot->mail = *mail;
	/* the message, and what it refers to, is visible before its turn */
	atomic_store_explicit(&slot->turn, (box->head >> box->out_shift) + 1, memory_order_release);
	box->head++;
	thmqi_count_up(&l->mail.sent, 1);
	note_kick(l, box);
	return 0;
}

/* ------------------------------------------------------------- open, close */

int thmqi_mailbox_open(struct thmq_core *from, struct thmq_core *to,
		       const struct thmq_mailbox_opts *opts, struct thmq_mailbox **ret_box)
{
	uint32_t depth = (uint32_t)thmqi_pow2_up(opts->depth ? THMQI_MAX(opts->depth, 2u) : DEPTH);
	size_t bytes = sizeof(struct thmq_mailbox) + depth * sizeof(struct slot);
	struct thmq_mailbox *box = aligned_alloc(
		2 * THMQI_CACHELINE, THMQI_ALIGN_UP(bytes, 2 * (size_t)THMQI_CACHELINE));

	if (!box)
		return -ENOMEM;
	memset(box, 0, bytes);
	box->slots = box->out = box->at = (struct slot *)(box + 1);
	box->mask = box->out_mask = depth - 1;
	box->shift = box->out_shift = (uint32_t)__builtin_ctz(depth);
	box->turn_due = 1;
	box->from = from;
	box->to = box->target = to;
	box->opts = *opts;
	box->attach.run = run_attach;
	box->detach.run = run_detach;
	box->room.run = run_room;
	thmqi_list_add_tail(&loop_of(from)->mail.out, &box->link);
	thmqi_core_post(to, &box->attach);
	*ret_box = box;
	return 0;
}

struct thmq_core *thmqi_mailbox_sender(const struct thmq_mailbox *box)
{
	return box->from;
}

void thmqi_mailbox_close(struct thmq_mailbox *box)
{
	if (box->closed)
		return; /* its task is under way already */
	if (box->owed)
		thmqi_mail_kick(loop_of(box->from));
	box->closed = true;
	thmqi_core_post(box->target, &box->detach);
}

void thmqi_mail_init(struct loop *l)
{
	thmqi_list_init(&l->mail.out);
}

/* Of a core that is closed: those that were left open. No other core looks at them any more. */
void thmqi_mail_fini(struct loop *l)
{
	struct thmqi_list *it, *next;

	thmqi_list_each_safe(it, next, &l->mail.out)
		free(thmqi_container(it, struct thmq_mailbox, link));
}
