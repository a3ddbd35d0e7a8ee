/* SPDX-License-Identifier: Apache-2.0 */
/* memory_share_test.c - slabs and others: registrars and their keys, trust domains, a peer's process, pages and nodes. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/memory.h"

#include "resident.h"

#define SLAB (uint64_t) THMQ_SLAB_BYTES
#define ROOT THMQ_BLOCK_MAX

TestSuite(memory_share, .timeout = 60);

struct book {
	struct thmq_registrar registrar; /* first */
	uint32_t adds, removes;
	uint32_t domains; /* bit per domain seen */
};

static int book_add(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t *ret_key)
{
	struct book *book = (struct book *)r;

	book->adds++;
	book->domains |= 1u << slab->domain;
	*ret_key = 0xabc00000 + slab->index;
	return 0;
}

static void book_remove(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t key)
{
	struct book *book = (struct book *)r;

	cr_assert_eq(key, 0xabc00000 + slab->index);
	book->removes++;
}

#define BOOK(...)                                                                                  \
	{                                                                                          \
		.registrar = {.add = book_add, .remove = book_remove, __VA_ARGS__ }                \
	}

static struct thmq_slabs *open_slabs(uint32_t slabs)
{
	struct thmq_slabs *s = NULL;

	cr_assert_eq(thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = slabs * SLAB), &s), 0);
	return s;
}

static struct thmq_pool *open_pool(struct thmq_slabs *s, uint32_t domain)
{
	struct thmq_pool *p = NULL;

	cr_assert_eq(thmq_pool_open(s, THMQ_POOL_OPTS(.domain = domain), &p), 0);
	return p;
}

static struct thmq_buf *take(struct thmq_pool *p, uint32_t size)
{
	struct thmq_buf *b = NULL;

	cr_assert_eq(thmq_buf_alloc(p, size, 0, &b), 0);
	return b;
}

static struct thmq_slabs_stats stats(struct thmq_slabs *s)
{
	struct thmq_slabs_stats st = {.size = sizeof(st)};

	cr_assert_eq(thmq_slabs_stats(s, &st), 0);
	return st;
}

/* ----------------------------------------------------------------- registrars */

Test(memory_share, a_slab_is_registered_once_however_often_it_is_lent)
{
	struct thmq_slabs *s = open_slabs(4);
	struct book early = BOOK(), late = BOOK();
	struct thmq_pool *p;

	cr_assert_eq(thmq_slabs_subscribe(s, &early.registrar), 0);
	for (int i = 0; i < 5; i++) {
		p = open_pool(s, 0);
		thmq_buf_unref(take(p, 1));
		cr_assert_eq(thmq_pool_close(p), 0);
	}
	cr_assert_eq(early.adds, 1);
	cr_assert_eq(thmq_slabs_subscribe(s, &late.registrar), 0);
	cr_assert_eq(late.adds, 1, "those that are there already");
	cr_assert_eq(stats(s).registrations, 2);
	cr_assert_gt(stats(s).registration_ns, 0);
	cr_assert_leq(stats(s).registration_ns_max, stats(s).registration_ns);
	cr_assert_eq(thmq_slabs_close(s), -EBUSY, "they have not left");
	cr_assert_eq(thmq_slabs_trim(s), SLAB);
	cr_assert_eq(early.removes, 1, "before its memory goes");
	cr_assert_eq(thmq_slabs_trim(s), 0);
	p = open_pool(s, 0);
	thmq_buf_unref(take(p, 1));
	cr_assert_eq(early.adds, 2);
	cr_assert_eq(thmq_slabs_unsubscribe(s, &early.registrar), 0);
	cr_assert_eq(thmq_slabs_unsubscribe(s, &late.registrar), 0);
	cr_assert_eq(early.removes, 2);
	cr_assert_eq(thmq_slabs_unsubscribe(s, &late.registrar), -EINVAL);
	cr_assert_eq(thmq_slabs_close(s), -EBUSY, "a pool is open");
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_share, a_key_is_found_from_any_address)
{
	struct thmq_slabs *s = open_slabs(4);
	struct thmq_pool *p = open_pool(s, 0), *other = open_pool(s, 0);
	struct book all = BOOK(), one = BOOK(.pool = p), nobody = BOOK();
	struct thmq_buf *b[6], *far;
	struct thmq_slab slab;
	uint64_t key = 1;

	cr_assert_eq(thmq_slabs_subscribe(s, &all.registrar), 0);
	cr_assert_eq(thmq_slabs_subscribe(s, &one.registrar), 0);
	cr_assert_eq(thmq_slabs_subscribe(s, &one.registrar), -EBUSY);
	for (int i = 0; i < 6; i++)
		b[i] = take(p, i ? ROOT : 64);
	far = take(other, 4096);
	cr_assert_eq(all.adds, 3);
	cr_assert_eq(one.adds, 2, "its pool's alone");
	for (int i = 0; i < 6; i++) {
		cr_assert_eq(thmq_slabs_key(s, &all.registrar, b[i]->data + b[i]->size - 1, &key),
			     0);
		cr_assert_eq(key, 0xabc00000 + (uint64_t)b[i]->slab_index);
		cr_assert_eq(thmq_slabs_key(s, &one.registrar, b[i]->data, &key), 0);
		cr_assert_eq(thmq_slabs_find(s, b[i]->data, &slab), 0);
		cr_assert_eq(slab.index, b[i]->slab_index);
		cr_assert_eq(slab.fd, -1, "private memory has no descriptor");
		cr_assert(slab.base <= b[i]->data && b[i]->data < slab.base + slab.bytes);
	}
	key = 1;
	cr_assert_eq(thmq_slabs_key(s, &one.registrar, far->data, &key), -ENOENT);
	cr_assert_eq(thmq_slabs_key(s, &nobody.registrar, far->data, &key), -ENOENT);
	cr_assert_eq(thmq_slabs_key(s, &all.registrar, &key, &key), -ENOENT);
	cr_assert_eq(thmq_slabs_find(s, &key, &slab), -ENOENT);
	cr_assert_eq(key, 1, "left alone");
	cr_assert_eq(thmq_pool_close(p), -EBUSY, "a registrar of it has not left");
	for (int i = 0; i < 6; i++)
		thmq_buf_unref(b[i]);
	thmq_buf_unref(far);
	cr_assert_eq(thmq_slabs_unsubscribe(s, &one.registrar), 0);
	cr_assert_eq(one.removes, 2);
	cr_assert_eq(thmq_slabs_unsubscribe(s, &all.registrar), 0);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_pool_close(other), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_share, there_are_only_so_many_registrars)
{
	static struct book books[THMQ_REGISTRARS_MAX + 1];
	struct thmq_slabs *s = open_slabs(1);
	uint32_t i;

	for (i = 0; i <= THMQ_REGISTRARS_MAX; i++) {
		books[i] = (struct book)BOOK();
		cr_assert_eq(thmq_slabs_subscribe(s, &books[i].registrar),
			     i < THMQ_REGISTRARS_MAX ? 0 : -ENOSPC);
	}
	for (i = 0; i < THMQ_REGISTRARS_MAX; i++)
		cr_assert_eq(thmq_slabs_unsubscribe(s, &books[i].registrar), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

/* -------------------------------------------------------------- trust domains */

Test(memory_share, remote_keys_are_made_for_a_peers_own_slabs_only)
{
	struct thmq_slabs *s = open_slabs(4);
	struct book everything = BOOK(.flags = THMQ_REGISTRAR_REMOTE),
		    any = BOOK(.flags = THMQ_REGISTRAR_REMOTE | THMQ_REGISTRAR_ANY_DOMAIN,
			       .domain = 2),
		    peer = BOOK(.flags = THMQ_REGISTRAR_REMOTE, .domain = 2),
		    local = BOOK(.flags = THMQ_REGISTRAR_ANY_DOMAIN), own = BOOK();
	struct thmq_pool *mine, *two, *three;
	struct thmq_buf *b[3];
	uint64_t key;

	cr_assert_eq(thmq_slabs_subscribe(s, &everything.registrar), -EACCES);
	cr_assert_eq(thmq_slabs_subscribe(s, &any.registrar), -EACCES);
	cr_assert_eq(thmq_slabs_subscribe(s, &peer.registrar), 0);
	cr_assert_eq(thmq_slabs_subscribe(s, &local.registrar), 0);
	cr_assert_eq(thmq_slabs_subscribe(s, &own.registrar), 0);
	mine = open_pool(s, 0);
	two = open_pool(s, 2);
	three = open_pool(s, 3);
	b[0] = take(mine, 1);
	b[1] = take(two, 1);
	b[2] = take(three, 1);
	cr_assert_eq(peer.domains, 1u << 2);
	cr_assert_eq(local.domains, 1u << 0 | 1u << 2 | 1u << 3);
	cr_assert_eq(own.domains, 1u << 0);
	cr_assert_eq(thmq_slabs_key(s, &peer.registrar, b[0]->data, &key), -ENOENT);
	cr_assert_eq(thmq_slabs_key(s, &peer.registrar, b[1]->data, &key), 0);
	cr_assert_eq(thmq_slabs_key(s, &peer.registrar, b[2]->data, &key), -ENOENT);
	for (int i = 0; i < 3; i++)
		thmq_buf_unref(b[i]);
	cr_assert_eq(stats(s).shared_slabs, 2);
	thmq_pool_close(two);
	cr_assert_eq(peer.removes, 1, "a peer's slab is gone with its pool");
	cr_assert_eq(stats(s).shared_slabs, 1);
	thmq_pool_close(three);
	thmq_pool_close(mine);
	cr_assert_eq(stats(s).slabs, 1);
	thmq_slabs_unsubscribe(s, &peer.registrar);
	thmq_slabs_unsubscribe(s, &local.registrar);
	thmq_slabs_unsubscribe(s, &own.registrar);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_share, what_one_peer_had_no_other_one_gets)
{
	struct thmq_slabs *s = open_slabs(1);
	struct thmq_pool *p = open_pool(s, 1);
	struct thmq_slab slab;
	struct thmq_buf *b = take(p, 4096);
	uint8_t *seen;
	int fd;

	cr_assert_eq(thmq_slabs_find(s, b->data, &slab), 0);
	fd = dup(slab.fd);
	seen = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, b->data - slab.base);
	cr_assert_neq(seen, MAP_FAILED);
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(p), 0);
	p = open_pool(s, 2); /* the only place there is */
	b = take(p, 4096);
	memset(b->data, 7, 4096);
	cr_assert_neq(seen[0], 7, "other memory");
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(p), 0);
	p = open_pool(s, 0);
	b = take(p, 4096);
	cr_assert_eq(thmq_slabs_find(s, b->data, &slab), 0);
	cr_assert_eq(slab.fd, -1);
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(p), 0);
	p = open_pool(s, 2); /* and it is taken from the free private ones */
	thmq_buf_unref(take(p, 1));
	cr_assert_eq(thmq_pool_close(p), 0);
	munmap(seen, 4096);
	close(fd);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

/* What a peer does with the descriptor that it was sent; of its own address space. */
static int be_the_peer(int fd, uint64_t at)
{
	uint8_t *p = mmap(NULL, THMQ_SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED || memcmp(p + at, "from the broker", 16) != 0)
		return 1;
	memcpy(p + at + 100, "from the peer", 14);
	if (ftruncate(fd, 4096) == 0 || ftruncate(fd, 2 * SLAB) == 0)
		return 2; /* the broker would trap */
	return fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0 ? 3 : 0;
}

Test(memory_share, a_peers_process_maps_its_slab_and_cannot_cut_it)
{
	struct thmq_slabs *s = open_slabs(2);
	struct thmq_pool *p = open_pool(s, 5);
	struct thmq_slab slab;
	struct thmq_buf *b = take(p, 1000);
	int status = -1;
	pid_t pid;

	memcpy(b->data, "from the broker", 16);
	cr_assert_eq(thmq_slabs_find(s, b->data, &slab), 0);
	cr_assert_eq(slab.domain, 5);
	cr_assert_geq(slab.fd, 0);
	pid = fork();
	if (pid == 0)
		_exit(be_the_peer(slab.fd, (uint64_t)(b->data - slab.base)));
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "exit %d", WEXITSTATUS(status));
	cr_assert_str_eq((char *)b->data + 100, "from the peer");
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

/* ---------------------------------------------------------------- pages, nodes */

static void use(struct thmq_slabs *s, const struct thmq_pool_opts *opts, uint32_t *ret_pages)
{
	struct thmq_pool *p;
	struct thmq_buf *b;
	struct thmq_slab slab;

	cr_assert_eq(thmq_pool_open(s, opts, &p), 0, "%s", thmq_errmsg());
	b = take(p, ROOT);
	memset(b->data, 3, ROOT);
	cr_assert_eq(thmq_slabs_find(s, b->data, &slab), 0);
	*ret_pages = slab.pages;
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(p), 0);
}

Test(memory_share, pages_are_the_best_that_the_system_has_and_it_says_which)
{
	struct thmq_slabs *s;
	struct thmq_slabs_stats st;
	uint32_t best, pages, of_it;

	for (best = 0; best <= THMQ_PAGES_PLAIN; best++) {
		cr_assert_eq(thmq_slabs_open(
				     THMQ_SLABS_OPTS(.pages = best, .limit_bytes = 33 * SLAB), &s),
			     0);
		use(s, NULL, &pages);
		cr_assert_geq(pages, best, "no better than asked for");
		st = stats(s);
		of_it = pages == THMQ_PAGES_GIANT  ? st.giant_slabs
			: pages == THMQ_PAGES_HUGE ? st.huge_slabs
			: pages == THMQ_PAGES_TRANSPARENT
				? st.transparent_slabs
				: st.slabs - st.giant_slabs - st.huge_slabs - st.transparent_slabs;
		cr_assert_eq(of_it, 1);
		use(s, THMQ_POOL_OPTS(.domain = 1), &pages);
		cr_assert_geq(pages, best);
		cr_assert_eq(thmq_slabs_close(s), 0);
	}
	cr_assert_eq(thmq_slabs_open(THMQ_SLABS_OPTS(.pages = 5), &s), -EINVAL);
	cr_assert_eq(thmq_slabs_open(THMQ_SLABS_OPTS(.flags = 4), &s), -EINVAL);
	cr_assert_eq(thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = UINT64_MAX), &s), -EINVAL);
	cr_assert_eq(thmq_slabs_open(NULL, NULL), -EINVAL);
	cr_assert_eq(thmq_slabs_close(NULL), -EINVAL);
}

Test(memory_share, slabs_come_from_a_node_and_are_lent_to_who_asks_for_it)
{
	struct thmq_slabs *s = open_slabs(2);
	uint32_t pages;

	use(s, THMQ_POOL_OPTS(.flags = THMQ_POOL_NEAR), &pages);
	use(s, THMQ_POOL_OPTS(.flags = THMQ_POOL_NODE, .node = 0), &pages);
	use(s, NULL, &pages);
	cr_assert_eq(stats(s).slabs, 1);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_share, pages_are_touched_when_that_is_asked_for)
{
	struct thmq_slabs *s;
	struct thmq_pool *p;
	uint64_t before;

	cr_assert_eq(thmq_slabs_open(THMQ_SLABS_OPTS(.flags = THMQ_SLABS_PREFAULT,
						     .pages = THMQ_PAGES_TRANSPARENT),
				     &s),
		     0);
	p = open_pool(s, 0);
	before = resident_bytes();
	thmq_buf_unref(take(p, 1));
	cr_assert_geq(resident_bytes() - before, SLAB);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_trim(s), SLAB);
	cr_assert_lt(resident_bytes(), before + SLAB / 4, "given back");
	cr_assert_eq(thmq_slabs_close(s), 0);
}
