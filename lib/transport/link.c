/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c - a link's memory and its end. The two ends close in any order; the memory goes with the second. Control path
 * only: nothing here is called per message. Knows no medium.
 */
#include <sys/mman.h>

#include "internal.h"

void thmqi_link_free(struct thmqi_link *link)
{
	if (link->listener)
		thmqi_listener_unref(link->listener);
	if (link->waiter)
		thmqi_waiter_unref(link->waiter);
	for (uint32_t i = 0; i < link->map_count; i++)
		munmap(link->maps[i].at, link->maps[i].bytes);
	if (!link->area_is_lent)
		free(link->area);
	free(link->request);
	free(link->reply);
	free(link->room);
	free(link);
}

void thmqi_link_unref(struct thmqi_link *link)
{
	if (atomic_fetch_sub(&link->refs, 1) == 1)
		thmqi_link_free(link);
}

void thmqi_link_shut(struct thmqi_link *link, int error)
{
	int32_t open = 0;

	atomic_compare_exchange_strong(&link->broker_closed, &open, error);
	link->broker = NULL;
	thmqi_link_kick_client(link);
}

void thmqi_link_leave(struct thmqi_link *link, void (*let_go)(void *left), void *left)
{
	link->let_go = let_go;
	link->left = left;
	thmqi_link_unref(
		link); /* the client end's reference ends on this core, and let_go goes before it */
}

static void run_accept(struct thmq_core *core, struct thmqi_task *task)
{
	struct thmqi_link *link = thmqi_container(task, struct thmqi_link, task);
	struct thmqi_acceptor *a = &link->listener->acceptor;
	int rc;

	(void)core;
	/* a session that has links already was there before: its broker has closed */
	if (atomic_load(&link->listener->gone))
		rc = link->is_further ? -ESHUTDOWN : -ECONNREFUSED;
	else
		rc = a->accept(a->ctx, link);
	if (rc) {
		thmqi_link_shut(link, rc);
		thmqi_link_unref(link);
	}
}

static void client_is_gone(struct thmqi_link *link)
{
	struct thmqi_acceptor *a = &link->listener->acceptor;

	/* a link that the broker's end has shut, or refused, is the client's alone, and the acceptor may be gone */
	if (link->broker)
		a->closed(a->ctx, link);
	else if (link->let_go)
		link->let_go(link->left);
	thmqi_link_unref(link);
}

static void run_closed(struct thmq_core *core, struct thmqi_task *task)
{
	(void)core;
	client_is_gone(thmqi_container(task, struct thmqi_link, goodbye));
}

/*
 * The client's end goes. Its reference is dropped on the core, behind everything that was posted there before, so that the
 * broker's end is never told while it is being accepted.
 */
void thmqi_link_close(struct thmqi_link *link)
{
	struct thmq_core *core = link->core;

	if (link->far) {
		link->far->close(link);
		return;
	}
	atomic_store(&link->client_closed, 1);
	link->goodbye.run = run_closed;
	thmqi_core_post(core, &link->goodbye);
}

void thmqi_link_close_here(struct thmqi_link *link)
{
	atomic_store(&link->client_closed, 1);
	client_is_gone(link);
}

/* Once the broker's end has shut it nobody looks at it, and its acceptor may be gone. */
bool thmqi_link_rest(struct thmqi_link *link)
{
	const struct thmqi_acceptor *a = &link->listener->acceptor;

	return link->broker && a->rest && a->rest(a->ctx, link);
}

void thmqi_link_rouse(struct thmqi_link *link)
{
	const struct thmqi_acceptor *a = &link->listener->acceptor;

	if (link->broker && a->rouse)
		a->rouse(a->ctx, link);
}

void thmqi_link_came(struct thmqi_link *link)
{
	const struct thmqi_acceptor *a = &link->listener->acceptor;

	if (link->broker && a->came)
		a->came(a->ctx, link);
}

void thmqi_link_offer(struct thmqi_link *link)
{
	link->task.run = run_accept;
	thmqi_core_post(link->core, &link->task);
}

/* Zeros that cost nothing until they are used: most of thousands of connections use little of their rings. */
static void *zeroed(struct thmqi_link *link, size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	madvise(at, bytes, MADV_NOHUGEPAGE);
	link->maps[link->map_count].at = at;
	link->maps[link->map_count++].bytes = bytes;
	return at;
}

int thmqi_link_make(const struct thmqi_link_opts *opts, size_t end_bytes, struct thmqi_link **ret_link)
{
	struct thmqi_link *link = aligned_alloc(
		THMQI_CACHELINE, THMQI_ALIGN_UP(sizeof(*link), (size_t)THMQI_CACHELINE));
	uint32_t ctl = THMQI_MIN(opts->up_frames, THMQI_CTL_FRAMES_MAX);
	struct thmqi_frame *up, *control, *down;

	if (!link)
		return -ENOMEM;
	memset(link, 0, sizeof(*link));
	atomic_init(&link->refs, 2);
	link->pulse = &link->beat;
	link->area_bytes = (uint32_t)opts->area_bytes;
	link->area_is_lent = opts->area != NULL;
	link->area = opts->area ? opts->area
				: aligned_alloc(THMQI_BLOCK, THMQI_ALIGN_UP(opts->area_bytes,
									    (uint64_t)THMQI_BLOCK));
	link->request = calloc(1, sizeof(*link->request));
	link->reply = calloc(1, sizeof(*link->reply));
	link->room = calloc(1, end_bytes + 1);
	up = zeroed(link, opts->up_frames * sizeof(*up));
	control = zeroed(link, ctl * sizeof(*control));
	down = zeroed(link, opts->down_frames * sizeof(*down));
	link->up.slots = up;
	link->ctl.slots = control;
	link->down.slots = down;
	if (!link->area || !link->request || !link->reply || !link->room || !up || !control || !down) {
		thmqi_link_free(link);
		return -ENOMEM;
	}
	thmqi_frame_ring_init(&link->up, up, opts->up_frames);
	thmqi_frame_ring_init(&link->ctl, control, ctl);
	thmqi_frame_ring_init(&link->down, down, opts->down_frames);
	*ret_link = link;
	return 0;
}
