/* SPDX-License-Identifier: Apache-2.0 */
/*
 * no_memory_test.c - the nth allocation of the library fails, for n = 1, 2, 3 …: once, or it and all after it. The call that needed it
 * says -ENOMEM and why, has changed nothing, and succeeds when it is made again; in the end nothing has leaked, and what was
 * acknowledged is there.
 *
 * THMQ_TEST_NTH=n begins with the nth, for a debugger.
 *
 * Linked with --wrap of the allocators: only the library's and this program's own calls are counted, not the C library's.
 */
#include "bad_input.h"

#include <dirent.h>
#include <stdatomic.h>
#include <sys/mman.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *s);
void __real_free(void *p);
void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *addr, size_t len);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *s);
void __wrap_free(void *p);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *addr, size_t len);

static atomic_long blocks;       /* allocated and not freed */
static atomic_long fail_at;      /* so many more allocations, then one fails; 0: none */
static atomic_long struck;       /* allocations that failed */
static atomic_bool all_after;    /* all after it fail too */
static atomic_long maps_refused; /* of these, mappings */

static bool refused(void)
{
	long left = atomic_load(&fail_at);

	if (!left)
		return false;
	if (left > 1) {
		atomic_store(&fail_at, left - 1);
		return false;
	}
	if (!atomic_load(&all_after))
		atomic_store(&fail_at, 0);
	atomic_fetch_add(&struck, 1);
	errno = ENOMEM;
	return true;
}

static void *counted(void *p)
{
	if (p)
		atomic_fetch_add(&blocks, 1);
	return p;
}

void *__wrap_malloc(size_t size)
{
	return refused() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
	return refused() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *p, size_t size)
{
	if (refused())
		return NULL;
	return p ? __real_realloc(p, size) : counted(__real_realloc(p, size));
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return refused() ? NULL : counted(__real_aligned_alloc(align, size));
}

char *__wrap_strdup(const char *s)
{
	return refused() ? NULL : counted(__real_strdup(s));
}

void __wrap_free(void *p)
{
	if (p)
		atomic_fetch_sub(&blocks, 1);
	__real_free(p);
}

void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (refused()) {
		atomic_fetch_add(&maps_refused, 1);
		return MAP_FAILED;
	}
	return __real_mmap(addr, len, prot, flags, fd, offset);
}

int __wrap_munmap(void *addr, size_t len)
{
	return __real_munmap(addr, len);
}

/* ----------------------------------------------------------------- counting */

static unsigned descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

/* Bytes of address space. */
static unsigned long address_space(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f) {
		if (fscanf(f, "%lu", &pages) != 1)
			pages = 0;
		fclose(f);
	}
	return pages * 4096;
}

/* -------------------------------------------------------------------- a life */

static const char *step;
static uint32_t cores; /* of the library; 0: the caller drives */
static long nth;
static bool told_one;

/* A control call fails for want of memory, with a text, and then succeeds. */
#define TRY(expr)                                                                                  \
	do {                                                                                       \
		long long rc_;                                                                     \
		step = #expr;                                                                      \
		thmq_data_scan(NULL, NULL, NULL);                                                  \
		rc_ = (long long)(expr);                                                           \
		if (rc_ > 0 && !strstr(step, "list"))                                              \
			FAIL("allocation %ld: %s is %lld", nth, #expr, rc_);                       \
		if (rc_ < 0) {                                                                     \
			atomic_store(&fail_at, 0);                                                 \
			told_one = true;                                                           \
			check_text(__FILE__, __LINE__, #expr, NULL);                               \
			if (rc_ != -ENOMEM && rc_ != -EAGAIN)                                      \
				FAIL("allocation %ld: %s is %s (%s)", nth, #expr,                  \
				     thmq_errname((int)rc_), thmq_errmsg());                       \
			rc_ = (long long)(expr);                                                   \
			if (rc_ < 0) {                                                             \
				FAIL("allocation %ld, again: %s is %s (%s)", nth, #expr,           \
				     thmq_errname((int)rc_), thmq_errmsg());                       \
				return -1;                                                         \
			}                                                                          \
		}                                                                                  \
	} while (0)

struct life {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer, *volatile_producer;
	struct thmq_consumer *consumer, *reader;
};

/* Until something has come, or a while. */
static void rest(struct life *l)
{
	if (cores)
		thmq_session_wait(l->session, 1000000);
	else
		thmq_poll(l->env, 1000000);
}

/* The data plane: -EAGAIN is ordinary there, and nothing else comes of it. */
static int send_one(struct life *l, struct thmq_producer *p, uint64_t number)
{
	unsigned tries;
	int64_t rc = -EAGAIN;

	step = "send";
	for (tries = 0; tries < 2000 && rc == -EAGAIN; tries++) {
		rc = thmq_send(
			p, &number, sizeof(number),
			THMQ_MESSAGE_OPTS(.key = &number, .key_len = sizeof(number), .tag = "t"));
		if (rc == -EAGAIN) {
			if (tries == 100)
				atomic_store(&fail_at, 0);
			rest(l);
		}
	}
	if (rc < 0)
		FAIL("allocation %ld: send is %s", nth, thmq_errname((int)rc));
	return rc < 0 ? -1 : 0;
}

/* What a shard has no memory for is refused by an event, and is taken when it is sent again. */
static int send_some(struct life *l, struct thmq_producer *p)
{
	struct thmq_event e[16];
	uint64_t i;
	int rc, n;

	do {
		for (i = 0; i < 6; i++)
			if (send_one(l, p, i))
				return -1;
		step = "flush";
		rc = thmq_flush(p, 5 * SECOND);
		if (rc == -EIO && !told_one) {
			told_one = true;
			atomic_store(&fail_at, 0);
		} else if (rc) {
			FAIL("allocation %ld: flush is %s", nth, thmq_errname(rc));
			return -1;
		}
		while ((n = thmq_events(l->session, e, 16)) > 0)
			while (n--)
				CHECK(e[n].type != THMQ_EVENT_FAILED || e[n].error == -ENOMEM);
	} while (rc);
	return 0;
}

static int take_one(struct life *l, struct thmq_consumer *c, struct thmq_message *m)
{
	unsigned tries;
	int n = 0;

	step = "fetch";
	for (tries = 0; tries < 3000 && n == 0; tries++) {
		n = thmq_fetch(c, m, 1);
		if (n == 0) {
			if (tries == 100)
				atomic_store(&fail_at, 0);
			rest(l);
		}
	}
	if (n != 1)
		FAIL("allocation %ld: fetch is %s", nth, n ? thmq_errname(n) : "0");
	return n == 1 ? 0 : -1;
}

/* What a copy that failed left may be removed. */
static int copy(struct life *l)
{
	int rc = thmq_broker_copy(l->broker, in_place("copy"), 5 * SECOND);

	remove_tree(in_place("copy"));
	return rc;
}

static int use(struct life *l, const char *dir)
{
	struct thmq_partition_info where = {.size = sizeof(where)};
	struct thmq_topic_info infos[4] = {{.size = sizeof(infos[0])}};
	struct thmq_message m;

	TRY(thmq_env_open(&l->env, THMQ_ENV_OPTS(.pool_bytes = 64 << 20, .core_count = cores,
						  /* with a forecaster and its thread */
						  .policy = cores ? THMQ_POLICY_PREDICTIVE : THMQ_POLICY_DEFAULT,
						  .wake_cpu_ns = 2500, .wake_latency_ns = 4500)));
	TRY(broker_on(l->env, dir, 0, &l->broker));
	TRY(thmq_connect(l->env, "inproc://", THMQ_SESSION_OPTS(.timeout_ns = 5 * SECOND),
			 &l->session));
	TRY(thmq_topic_create(
		l->session, "a",
		THMQ_TOPIC_OPTS(.partition_count = 5, .flags = THMQ_TOPIC_IF_ABSENT)));
	TRY(thmq_topic_create(l->session, "v",
			      THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE | THMQ_TOPIC_IF_ABSENT,
					      .volatile_bytes = 1 << 20)));
	TRY(thmq_producer_open(l->session, "a", NULL, &l->producer));
	TRY(thmq_producer_open(l->session, "v", NULL, &l->volatile_producer));
	TRY(thmq_consumer_open(l->session, "a", "g", NULL, &l->consumer));
	TRY(thmq_consumer_open(l->session, "v", NULL, NULL, &l->reader));
	if (send_some(l, l->producer) || send_some(l, l->volatile_producer))
		return -1;
	if (take_one(l, l->consumer, &m))
		return -1;
	RETURNS(0, thmq_ack(l->consumer, &m));
	RETURNS(0, thmq_release(l->consumer, &m, 1));
	TRY(thmq_consumer_flush(l->consumer, 5 * SECOND));
	if (take_one(l, l->reader, &m))
		return -1;
	RETURNS(0, thmq_release(l->reader, &m, 1));
	TRY(thmq_seek(l->reader, 0, THMQ_START_BEGIN, 0));
	TRY(thmq_seek(l->consumer, m.partition, THMQ_START_TIME, 1));
	TRY(thmq_topic_list(l->session, infos, 4));
	TRY(thmq_topic_describe(l->session, "a", infos));
	TRY(thmq_partition_describe(l->session, "a", 1, "g", &where));
	TRY(copy(l));
	TRY(thmq_topic_delete(l->session, "v"));
	RETURNS(0, thmq_consumer_close(l->reader, SECOND));
	RETURNS(0, thmq_consumer_close(l->consumer, SECOND));
	RETURNS(0, thmq_producer_close(l->producer, SECOND));
	RETURNS(0, thmq_session_close(l->session, SECOND));
	RETURNS(0, thmq_broker_close(l->broker, SECOND));
	return 0;
}

/* Each @stride th allocation. @good: all after it fail too. @fresh: a new directory each time. */
static void whole(bool good, bool fresh, long stride)
{
	char dir[1024];
	struct life l;
	long before_blocks;
	unsigned before_fds;
	unsigned long before_space;
	int before;

	snprintf(dir, sizeof(dir), "%s/data", place_make(NULL));
	if (!fresh)
		numbers_dir(dir, 10);
	alarm(CASE_SECONDS * 4);
	if (getenv("THMQ_TEST_FULL"))
		stride = 1;
	for (nth = getenv("THMQ_TEST_NTH") ? atol(getenv("THMQ_TEST_NTH")) : 0;;
	     nth +=
	     nth ? stride
		 : 1) { /* at 0 none fails: what stays of the first life is the C library's */
		if (fresh)
			remove_tree(dir);
		memset(&l, 0, sizeof(l));
		before = failures;
		before_blocks = atomic_load(&blocks);
		before_fds = descriptors();
		before_space = address_space();
		(void)before_space;
		atomic_store(&struck, 0);
		atomic_store(&all_after, good);
		told_one = false;
		atomic_store(&fail_at, nth);
		use(&l, dir);
		atomic_store(&fail_at, 0);
		if (l.env)
			RETURNS(0, thmq_env_close(l.env, 5 * SECOND));
		if (atomic_load(&blocks) != before_blocks)
			FAIL("allocation %ld: %ld blocks leak", nth,
			     atomic_load(&blocks) - before_blocks);
		if (descriptors() != before_fds)
			FAIL("allocation %ld: %u descriptors, then %u", nth, before_fds,
			     descriptors());
#if !defined(                                                                                      \
	__SANITIZE_ADDRESS__) /* which keeps what is freed for a while, and looks for leaks itself */
		if (nth && address_space() > before_space + (48 << 20))
			FAIL("allocation %ld: %lu MiB of address space are left", nth,
			     (address_space() - before_space) >> 20);
#endif
		if (failures != before)
			fprintf(stderr, "… allocation %ld, last step %s\n", nth, step);
		if (getenv("THMQ_TEST_FULL") == NULL && failures > 5)
			break;
		if (nth && !atomic_load(&struck))
			break;
	}
	CHECK(nth > 50);
	printf("%ld allocations\n", nth - 1);
}

static void once_in_a_new_directory(void)
{
	whole(false, true, 7);
}

static void once(void)
{
	whole(false, false, 3);
}

static void once_with_the_librarys_core(void)
{
	cores = 1;
	whole(false, false, 7);
}

static void for_good_in_a_new_directory(void)
{
	whole(true, true, 7);
}

static void for_good(void)
{
	whole(true, false, 7);
}

/* Over shared memory, both sides in this process: the broker's may only hang up where it has no memory, and then another try helps. */
static bool far_use(struct life *l)
{
	const struct thmq_session_opts opts = {.size = sizeof(opts), .timeout_ns = 5 * SECOND};
	struct thmq_message m;
	char url[1024];
	int n = 0, tries;

	snprintf(url, sizeof(url), "shm://%s", in_place("socket"));
	if (thmq_env_open(&l->env, THMQ_ENV_OPTS(.pool_bytes = 64 << 20)) != 0)
		return false;
	if (thmq_broker_open(l->env, THMQ_BROKER_OPTS(.listen = url), &l->broker) != 0 ||
	    thmq_connect(l->env, url, &opts, &l->session) != 0 ||
	    thmq_topic_create(l->session, "v", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 1 << 20)) != 0 ||
	    thmq_producer_open(l->session, "v", NULL, &l->producer) != 0 ||
	    thmq_consumer_open(l->session, "v", NULL, NULL, &l->reader) != 0 || thmq_send(l->producer, "x", 1, NULL) != 1)
		return false;
	for (tries = 0; tries < 1000 && n == 0; tries++) {
		thmq_session_wait(l->session, SECOND / 100);
		n = thmq_fetch(l->reader, &m, 1);
	}
	return n == 1 && thmq_release(l->reader, &m, 1) == 0;
}

static void once_over_shared_memory(void)
{
	long before_blocks;
	unsigned before_fds;
	struct life l;
	bool done;
	int rc;

	place_make(NULL);
	for (nth = 0;; nth++) {
		memset(&l, 0, sizeof(l));
		before_blocks = atomic_load(&blocks);
		before_fds = descriptors();
		atomic_store(&struck, 0);
		atomic_store(&all_after, false);
		atomic_store(&fail_at, nth);
		done = far_use(&l);
		atomic_store(&fail_at, 0);
		/* -EIO: the message that had no memory is told of at the close too */
		rc = l.env ? thmq_env_close(l.env, 5 * SECOND) : 0;
		if (rc && (rc != -EIO || !atomic_load(&struck)))
			FAIL("allocation %ld: close is %s", nth, thmq_errname(rc));
		if (!done && !atomic_load(&struck))
			FAIL("allocation %ld did not fail, and it does not work: %s", nth, thmq_errmsg());
		if (atomic_load(&blocks) != before_blocks)
			FAIL("allocation %ld: %ld blocks leak", nth, atomic_load(&blocks) - before_blocks);
		if (descriptors() != before_fds)
			FAIL("allocation %ld: %u descriptors, then %u", nth, before_fds, descriptors());
		if (failures > 5 || (nth && !atomic_load(&struck)))
			break;
	}
	CHECK(nth > 30);
	printf("%ld allocations\n", nth - 1);
}

static const struct bad_case cases[] = {
	{"once", once},
	{"once_over_shared_memory", once_over_shared_memory},
	{"once_in_a_new_directory", once_in_a_new_directory},
	{"once_with_the_librarys_core", once_with_the_librarys_core},
	{"for_good", for_good},
	{"for_good_in_a_new_directory", for_good_in_a_new_directory},
};

int main(int argc, char **argv)
{
	if (access("/dev/shm", W_OK) == 0) /* hundreds of lives: no device is waited for */
		setenv("TMPDIR", "/dev/shm", 0);
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
