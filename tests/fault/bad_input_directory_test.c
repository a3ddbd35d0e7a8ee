/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_directory_test.c - data directories that are absent, of the wrong kind, not allowed, in use, incomplete
 * or of another identity: each is refused with a text that names it, and nothing that was stored is lost by trying.
 */

#include "bad_input.h"
#include "base/base.h"

static void refused(const char *dir, uint32_t flags, int error)
{
	struct thmq_broker *broker = (struct thmq_broker *)0x1;
	struct world w;

	env_up(&w);
	SAYS(error, dir, broker_on(w.env, dir, flags, &broker));
	CHECK(broker == (struct thmq_broker *)0x1); /* outputs of a failed call are left alone */
	/* the environment is as good as before */
	MUST(broker_on(w.env, in_place("other"), 0, &w.broker));
	world_down(&w);
}

/* ------------------------------------------------------- absent, wrong kind */

static void absent_without_create(void)
{
	place_make(NULL);
	refused(in_place("data"), THMQ_BROKER_NO_CREATE, -ENOENT);
	CHECK(access(in_place("data"), F_OK) != 0); /* and was not made */
}

static void empty_without_create(void)
{
	place_make(NULL);
	mkdir(in_place("data"), 0755);
	refused(in_place("data"), THMQ_BROKER_NO_CREATE, -ENOENT);
	CHECK(rmdir(in_place("data")) == 0); /* still empty */
}

static void absent_parent(void)
{
	place_make(NULL);
	refused(in_place("no/such/data"), THMQ_BROKER_NO_CREATE, -ENOENT);
	CHECK(access(in_place("no"), F_OK) != 0);
	numbers_dir(in_place("no/such/data"), 10); /* made with all above it */
	expect_numbers(in_place("no/such/data"), 10);
}

static void a_file(void)
{
	struct stat st;

	place_make(NULL);
	write_file(in_place("data"), "hello", 5);
	refused(in_place("data"), 0, -ENOTDIR);
	CHECK(stat(in_place("data"), &st) == 0 && st.st_size == 5);
}

static void below_a_file(void)
{
	place_make(NULL);
	write_file(in_place("file"), "hello", 5);
	refused(in_place("file/data"), 0, -ENOTDIR);
}

static void a_name_too_long(void)
{
	char name[400];
	struct world w;

	place_make(NULL);
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = 0;
	env_up(&w);
	SAYS(-ENAMETOOLONG, "xxxx", broker_on(w.env, in_place(name), 0, &w.broker));
	w.broker = NULL;
	world_down(&w);
}

static void an_empty_name(void)
{
	struct world w;
	int rc;

	env_up(&w);
	rc = broker_on(w.env, "", 0, &w.broker);
	CHECK(rc == -EINVAL || rc == -ENOENT);
	CHECK(thmq_errmsg()[0]);
	w.broker = NULL;
	world_down(&w);
}

static void holds_other_things(void)
{
	place_make(NULL);
	mkdir(in_place("data"), 0755);
	write_file(in_place("data/report.txt"), "mine", 4);
	refused(in_place("data"), 0, -ENOTEMPTY);
	CHECK(strstr(thmq_errmsg(), "report.txt") || thmq_errmsg()[0]);
	CHECK(unlink(in_place("data/report.txt")) == 0);
	CHECK(rmdir(in_place("data")) == 0); /* nothing was put beside it */
}

/* -------------------------------------------------------------- not allowed */

static void open_data_is_not_allowed(void)
{
	refused(in_place("data"), 0, -EACCES);
}

static void read_only_directory(void)
{
	place_make(NULL);
	mkdir(in_place("data"), 0555);
	as_nobody(open_data_is_not_allowed);
}

static void no_entry(void)
{
	place_make(NULL);
	mkdir(in_place("data"), 0);
	as_nobody(open_data_is_not_allowed);
}

/* Made by somebody else, readable, not writable. */
static void another_users_data(void)
{
	if (getuid() != 0)
		SKIP("one user only");
	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	as_nobody(open_data_is_not_allowed);
	expect_numbers(in_place("data"), 10);
}

/* ------------------------------------------------------------------- in use */

static void two_openers_in_one_environment(void)
{
	struct thmq_broker *second;
	struct world w;
	char pid[32];

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	SAYS(-EBUSY, pid, broker_on(w.env, in_place("data"), 0, &second));
	put_numbers(w.session, 10, 10); /* the first one goes on */
	world_down(&w);
	expect_numbers(in_place("data"), 20);
}

static void two_openers_in_one_process(void)
{
	struct world w, v;

	place_make(NULL);
	world_up(&w, in_place("data"));
	env_up(&v);
	SAYS(-EBUSY, in_place("data"), broker_on(v.env, in_place("data"), 0, &v.broker));
	v.broker = NULL;
	put_numbers(w.session, 0, 10);
	world_down(&w);
	MUST(broker_on(v.env, in_place("data"), 0, &v.broker)); /* now it is free */
	world_down(&v);
	expect_numbers(in_place("data"), 10);
}

static void two_openers_in_two_processes(void)
{
	int ready[2], go[2], status;
	char pid[32], byte = 0;
	struct world w;
	pid_t child;

	place_make(NULL);
	if (pipe(ready) || pipe(go))
		exit(1);
	child = fork();
	if (child == 0) {
		world_up(&w, in_place("data"));
		put_numbers(w.session, 0, 10);
		if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
			_exit(1);
		world_down(&w);
		_exit(failures ? 1 : 0);
	}
	if (read(ready[0], &byte, 1) != 1)
		exit(1);
	snprintf(pid, sizeof(pid), "%d", (int)child);
	env_up(&w);
	SAYS(-EBUSY, pid, broker_on(w.env, in_place("data"), 0, &w.broker));
	check_text(__FILE__, __LINE__, "second opener", in_place("data"));
	w.broker = NULL;
	if (write(go[1], &byte, 1) != 1)
		exit(1);
	waitpid(child, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

/* A holder that was killed leaves no lock behind. */
static void killed_holder(void)
{
	int ready[2], status;
	char byte = 0;
	struct world w;
	pid_t child;

	place_make(NULL);
	if (pipe(ready))
		exit(1);
	child = fork();
	if (child == 0) {
		world_up(&w, in_place("data"));
		put_numbers(w.session, 0, 10);
		if (write(ready[1], &byte, 1) != 1)
			_exit(1);
		pause();
		_exit(1);
	}
	if (read(ready[0], &byte, 1) != 1)
		exit(1);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	expect_numbers(in_place("data"), 10);
}

/* A child that was forked meanwhile has the lock's descriptor too, and does nothing with it. */
static void idle_forked_child(void)
{
	int go[2], status;
	struct world w;
	char byte = 0;
	pid_t child;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	if (pipe(go))
		exit(1);
	child = fork();
	if (child == 0) {
		close(go[1]);
		_exit(read(go[0], &byte, 1) != 1);
	}
	world_down(&w);
	expect_numbers(in_place("data"), 10);
	if (write(go[1], &byte, 1) != 1)
		exit(1);
	waitpid(child, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ------------------------------------------------------ incomplete, foreign */

static void shard_missing(void)
{
	struct world w;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	if (rename(in_place("data/shard-000"), in_place("aside")) != 0) {
		FAIL("data/shard-000 is not there: %s", strerror(errno));
		return;
	}
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, "shard-000", broker_on(w.env, in_place("data"), 0, &w.broker));
	w.broker = NULL;
	world_down(&w);
	CHECK(access(in_place("data/shard-000"), F_OK) !=
	      0); /* no empty one was made in its place */
	CHECK(rename(in_place("aside"), in_place("data/shard-000")) == 0);
	expect_numbers(in_place("data"), 10);
}

static void shard_emptied(void)
{
	struct world w;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	if (rename(in_place("data/shard-000"), in_place("aside")) != 0 || mkdir(in_place("data/shard-000"), 0700) != 0) {
		FAIL("data/shard-000: %s", strerror(errno));
		return;
	}
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, "shard-000", broker_on(w.env, in_place("data"), 0, &w.broker));
	w.broker = NULL;
	world_down(&w);
	CHECK(rmdir(in_place("data/shard-000")) == 0); /* no log was made in it */
	CHECK(rename(in_place("aside"), in_place("data/shard-000")) == 0);
	expect_numbers(in_place("data"), 10);
}

static void shard_of_another_directory(void)
{
	struct world w;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	numbers_dir(in_place("other"), 20);
	CHECK(rename(in_place("data/shard-000"), in_place("aside")) == 0);
	CHECK(rename(in_place("other/shard-000"), in_place("data/shard-000")) == 0);
	CHECK(rename(in_place("aside"), in_place("other/shard-000")) == 0);
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, "shard-000", broker_on(w.env, in_place("data"), 0, &w.broker));
	SAYS(-THMQ_ECORRUPT, "shard-000", broker_on(w.env, in_place("other"), 0, &w.broker));
	w.broker = NULL;
	world_down(&w);
	CHECK(rename(in_place("data/shard-000"), in_place("aside")) == 0);
	CHECK(rename(in_place("other/shard-000"), in_place("data/shard-000")) == 0);
	CHECK(rename(in_place("aside"), in_place("other/shard-000")) == 0);
	expect_numbers(in_place("data"), 10);
	expect_numbers(in_place("other"), 20);
}

static void meta_missing(void)
{
	struct world w;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	CHECK(rename(in_place("data/meta"), in_place("aside")) == 0);
	env_up(&w);
	/* not taken for an empty directory: that would orphan the shard */
	SAYS(-THMQ_ECORRUPT, "but meta", broker_on(w.env, in_place("data"), 0, &w.broker));
	SAYS(-THMQ_ECORRUPT, "but meta", broker_on(w.env, in_place("data"), THMQ_BROKER_NO_CREATE, &w.broker));
	CHECK(access(in_place("data/meta"), F_OK) != 0); /* none was made */
	CHECK(mkdir(in_place("data/meta"), 0700) == 0);
	SAYS(-THMQ_ECORRUPT, "but meta", broker_on(w.env, in_place("data"), 0, &w.broker));
	w.broker = NULL;
	world_down(&w);
	CHECK(rmdir(in_place("data/meta")) == 0); /* still empty */
	CHECK(rename(in_place("aside"), in_place("data/meta")) == 0);
	expect_numbers(in_place("data"), 10);
}

/* @file of the closed directory is put aside: refused; put back: as before. */
static void file_missing(const char *file)
{
	char path[512];
	struct world w;

	snprintf(path, sizeof(path), "%s", in_place(file));
	CHECK(rename(path, in_place("aside")) == 0);
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, in_place("data"), broker_on(w.env, in_place("data"), 0, &w.broker));
	w.broker = NULL;
	world_down(&w);
	unlink(path);
	CHECK(rename(in_place("aside"), path) == 0);
	expect_numbers(in_place("data"), 10);
}

static void vote_missing(void)
{
	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	file_missing("data/shard-000/vote");
	file_missing("data/meta/vote");
}

static void segment_missing(void)
{
	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	file_missing("data/shard-000/00000000000000000000.log");
	file_missing("data/meta/00000000000000000000.log");
}

enum thing { A_DIRECTORY, A_PIPE, A_LINK_TO_NOTHING, A_LINK_TO_ITSELF, A_SHORT_FILE, THINGS };

static void put_thing(const char *path, enum thing thing)
{
	int rc = 0;

	if (thing == A_DIRECTORY)
		rc = mkdir(path, 0755);
	else if (thing == A_PIPE)
		rc = mkfifo(path, 0644);
	else if (thing == A_LINK_TO_NOTHING)
		rc = symlink("/nowhere/at/all", path);
	else if (thing == A_LINK_TO_ITSELF)
		rc = symlink(path, path);
	else
		write_file(path, "short", 5);
	CHECK(rc == 0);
}

/* In the place of each file and directory there is something else: told by all who look, and none waits for a pipe's writer. */
static void things_of_another_kind(void)
{
	static const char *const names[] = {"lock", "meta", "meta/vote", "shard-000", "shard-000/vote",
					    "shard-000/00000000000000000000.log"};
	const struct thmq_log_visitor none = {.size = sizeof(none)};
	unsigned i, thing;
	struct world w;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	env_up(&w);
	for (i = 0; i < CASE_COUNT(names); i++) {
		for (thing = 0; thing < THINGS; thing++) {
			char path[512];
			int rc, scan;

			snprintf(path, sizeof(path), "%s/%s", in_place("data"), names[i]);
			CHECK(rename(path, in_place("aside")) == 0);
			put_thing(path, thing);
			scan = thmq_data_scan(in_place("data"), &none, NULL);
			thmq_data_scan(NULL, NULL, NULL);
			rc = broker_on(w.env, in_place("data"), 0, &w.broker);
			if (rc)
				check_text(__FILE__, __LINE__, names[i], in_place("data"));
			else
				RETURNS(0, thmq_broker_close(w.broker, 5 * SECOND));
			/* a lock says nothing of the data, so that one that can be locked will do */
			if (i > 0 && (rc >= 0 || scan >= 0))
				FAIL("%s, thing %u: open %s, scan %s", names[i], thing, thmq_errname(rc), thmq_errname(scan));
			w.broker = NULL;
			remove_tree(path);
			CHECK(rename(in_place("aside"), path) == 0);
		}
		expect_numbers(in_place("data"), 10);
	}
	world_down(&w);
}

/* A directory may be a link, and may be gone under an open broker's feet. */
static void by_a_link(void)
{
	struct world w;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	CHECK(symlink("data", in_place("link")) == 0);
	expect_numbers(in_place("link"), 10);
	world_up(&w, in_place("link"));
	{
		struct thmq_broker *b;

		SAYS(-EBUSY, "link", thmq_broker_open(w.env, THMQ_BROKER_OPTS(.data_dir = in_place("link"), .name = "b"), &b));
		SAYS(-EBUSY, "data", thmq_broker_open(w.env, THMQ_BROKER_OPTS(.data_dir = in_place("data"), .name = "b"), &b));
	}
	CHECK(rename(in_place("data"), in_place("moved")) == 0);
	put_numbers(w.session, 10, 10);
	CHECK(get_numbers(w.session) == 20);
	world_down(&w);
	expect_numbers(in_place("moved"), 20);
	refused(in_place("link"), THMQ_BROKER_NO_CREATE, -ENOENT);
}

/* Killed while the directory is being made, again and again: each next open makes it whole. */
static void killed_during_creation(void)
{
	struct timespec pause_time;
	unsigned i, status;
	pid_t child;

	place_make(NULL);
	srand(7);
	for (i = 0; i < 40; i++) {
		struct world w;

		child = fork();
		if (child == 0) {
			world_up(&w, in_place("data"));
			pause();
			_exit(1);
		}
		/* a creation takes milliseconds: most of these cut it */
		pause_time = (struct timespec){.tv_nsec = rand() % 40000000};
		nanosleep(&pause_time, NULL);
		kill(child, SIGKILL);
		waitpid(child, (int *)&status, 0);
		if (i % 2)
			continue; /* half-made twice over */
		world_up(&w, in_place("data"));
		put_numbers(w.session, 0, 3);
		world_down(&w);
		expect_numbers(in_place("data"), 3);
		remove_tree(in_place("data"));
	}
}

/* As if creation had been cut at its start: nothing but empty directories. */
static void half_created(void)
{
	place_make(NULL);
	mkdir(in_place("data"), 0755);
	mkdir(in_place("data/meta"), 0755);
	numbers_dir(in_place("data"), 10);
	expect_numbers(in_place("data"), 10);
	remove_tree(in_place("data"));
	mkdir(in_place("data"), 0755);
	write_file(in_place("data/lock"), "", 0);
	numbers_dir(in_place("data"), 10);
	expect_numbers(in_place("data"), 10);
	remove_tree(in_place("data"));
	mkdir(in_place("data"), 0755);
	mkdir(in_place("data/meta"), 0755);
	write_file(in_place("data/meta/vote"), "", 0);
	numbers_dir(in_place("data"), 10);
	expect_numbers(in_place("data"), 10);
}

/* ------------------------------------------------------------ newer format */

/* Offsets as in doc/format.md, under "vote" and "batch header". */
#define VOTE_VERSION 4
#define VOTE_CRC 124
#define BATCH_VERSION 4
#define BATCH_CRC 92

/* Raise the version in the checked struct at @at of @file, with a right checksum. */
static void raise_version(const char *file, off_t at, unsigned version_at, unsigned version_len,
			  unsigned crc_at)
{
	uint8_t head[128];
	uint32_t crc;
	int fd = open(in_place(file), O_RDWR);

	if (fd < 0 || pread(fd, head, sizeof(head), at) != (ssize_t)sizeof(head)) {
		FAIL("%s: %s", file, strerror(errno));
		exit(1);
	}
	memcpy(&crc, head + crc_at, 4);
	if (crc == thmqi_crc32c(0, head, crc_at)) { /* else: a block not in use */
		CHECK(version_len <= 4 && head[version_at] < 0xff);
		head[version_at]++;
		crc = thmqi_crc32c(0, head, crc_at);
		memcpy(head + crc_at, &crc, 4);
		CHECK(pwrite(fd, head, sizeof(head), at) == (ssize_t)sizeof(head));
	}
	close(fd);
}

static void copy_tree(const char *from, const char *to)
{
	char command[1200];

	snprintf(command, sizeof(command), "cp -a '%s' '%s'", from, to);
	if (system(command) != 0)
		exit(1);
}

static void same_tree(const char *a, const char *b)
{
	char command[1200];

	snprintf(command, sizeof(command), "diff -r -x lock '%s' '%s'", a, b);
	CHECK(system(command) == 0);
}

static void newer_vote(void)
{
	static const char *const logs[] = {"data/meta/vote", "data/shard-000/vote"};
	struct world w;
	size_t i;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	copy_tree(in_place("data"), in_place("old"));
	for (i = 0; i < 2; i++) {
		raise_version(logs[i], 0, VOTE_VERSION, 4, VOTE_CRC);
		raise_version(logs[i], 4096, VOTE_VERSION, 4, VOTE_CRC);
		copy_tree(in_place("data"), in_place("newer"));
		env_up(&w);
		SAYS(-THMQ_EVERSION, in_place("data"),
		     broker_on(w.env, in_place("data"), 0, &w.broker));
		w.broker = NULL;
		world_down(&w);
		if (i == 0) /* a refused meta leaves everything alone */
			same_tree(in_place("data"), in_place("newer"));
		remove_tree(in_place("newer"));
		remove_tree(in_place("data"));
		copy_tree(in_place("old"), in_place("data"));
	}
	expect_numbers(in_place("data"), 10);
}

static void newer_batch(void)
{
	struct world w;
	int rc;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	copy_tree(in_place("data"), in_place("old"));
	raise_version("data/shard-000/00000000000000000000.log", 0, BATCH_VERSION, 2, BATCH_CRC);
	env_up(&w);
	rc = broker_on(w.env, in_place("data"), 0, &w.broker);
	CHECK(rc == -THMQ_EVERSION || rc == -THMQ_ECORRUPT); /* but never cut away */
	check_text(__FILE__, __LINE__, "open", in_place("data"));
	w.broker = NULL;
	world_down(&w);
	remove_tree(in_place("data"));
	copy_tree(in_place("old"), in_place("data"));
	expect_numbers(in_place("data"), 10);
}

/* ------------------------------------------------------------------ damage */

/* Overwrite @len bytes of @file at @at with a pattern; *@old gets what was there. */
static void scribble(const char *file, off_t at, uint8_t *old, size_t len)
{
	uint8_t noise[4096];
	int fd = open(in_place(file), O_RDWR);
	size_t i;

	if (fd < 0 || pread(fd, old, len, at) != (ssize_t)len) {
		FAIL("%s: %s", file, strerror(errno));
		exit(1);
	}
	for (i = 0; i < len; i++)
		noise[i] = (uint8_t)(old[i] ^ 0x5a);
	CHECK(pwrite(fd, noise, len, at) == (ssize_t)len);
	close(fd);
}

static void restore(const char *file, off_t at, const uint8_t *old, size_t len)
{
	int fd = open(in_place(file), O_RDWR);

	CHECK(fd >= 0 && pwrite(fd, old, len, at) == (ssize_t)len);
	close(fd);
}

static void damaged_first_batch(void)
{
	static const char *const files[] = {"data/shard-000/00000000000000000000.log",
					    "data/meta/00000000000000000000.log"};
	uint8_t old[64];
	struct world w;
	size_t i;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	for (i = 0; i < 2; i++) {
		scribble(files[i], 0, old, sizeof(old));
		env_up(&w);
		SAYS(-THMQ_ECORRUPT, in_place("data"),
		     broker_on(w.env, in_place("data"), 0, &w.broker));
		w.broker = NULL;
		world_down(&w);
		restore(files[i], 0, old, sizeof(old)); /* nothing else was changed */
		expect_numbers(in_place("data"), 10);
	}
}

static void damaged_votes(void)
{
	uint8_t old[2][4096];
	struct world w;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	scribble("data/shard-000/vote", 0, old[0], sizeof(old[0]));
	scribble("data/shard-000/vote", 4096, old[1], sizeof(old[1]));
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, in_place("data"), broker_on(w.env, in_place("data"), 0, &w.broker));
	w.broker = NULL;
	world_down(&w);
	restore("data/shard-000/vote", 0, old[0], sizeof(old[0]));
	restore("data/shard-000/vote", 4096, old[1], sizeof(old[1]));
	expect_numbers(in_place("data"), 10);
}

static const struct bad_case cases[] = {
	{"absent_without_create", absent_without_create},
	{"empty_without_create", empty_without_create},
	{"absent_parent", absent_parent},
	{"a_file", a_file},
	{"below_a_file", below_a_file},
	{"a_name_too_long", a_name_too_long},
	{"an_empty_name", an_empty_name},
	{"holds_other_things", holds_other_things},
	{"read_only_directory", read_only_directory},
	{"no_entry", no_entry},
	{"another_users_data", another_users_data},
	{"two_openers_in_one_environment", two_openers_in_one_environment},
	{"two_openers_in_one_process", two_openers_in_one_process},
	{"two_openers_in_two_processes", two_openers_in_two_processes},
	{"killed_holder", killed_holder},
	{"idle_forked_child", idle_forked_child},
	{"shard_missing", shard_missing},
	{"shard_emptied", shard_emptied},
	{"shard_of_another_directory", shard_of_another_directory},
	{"meta_missing", meta_missing},
	{"vote_missing", vote_missing},
	{"segment_missing", segment_missing},
	{"things_of_another_kind", things_of_another_kind},
	{"by_a_link", by_a_link},
	{"killed_during_creation", killed_during_creation},
	{"half_created", half_created},
	{"newer_vote", newer_vote},
	{"newer_batch", newer_batch},
	{"damaged_first_batch", damaged_first_batch},
	{"damaged_votes", damaged_votes},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
