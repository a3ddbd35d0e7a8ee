/* SPDX-License-Identifier: Apache-2.0 */
/* transport_shm_test.c - the parts of the shared-memory medium that need no second process: URLs, arenas, the books of a room. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../lib/transport/shm/shm.h"

TestSuite(transport_shm, .timeout = 60);

static struct shm_place place_of(const char *url)
{
	struct shm_place p;

	cr_assert_eq(thmqi_shm_parse(url, &p), 0, "%s", thmq_errmsg());
	return p;
}

Test(transport_shm, a_url_is_a_path_or_a_name_and_a_mode)
{
	struct shm_place p = place_of("shm:///run/q.sock");

	cr_assert_str_eq(p.path, "/run/q.sock");
	cr_assert(!p.is_name && p.mode == 0600);
	p = place_of("shm://data/socket?mode=660");
	cr_assert_str_eq(p.path, "data/socket");
	cr_assert_eq(p.mode, 0660);
	p = place_of("shm://@name%2c%3F%25");
	cr_assert_str_eq(p.path, "name,?%");
	cr_assert(p.is_name);
	p = place_of("shm://%40file");
	cr_assert(!p.is_name, "a file whose name begins with @");
}

Test(transport_shm, a_path_longer_than_an_address_goes_by_its_directory)
{
	struct sockaddr_un a;
	struct shm_place p = {.path = "/tmp/"};
	socklen_t len;
	int fd;

	cr_assert_eq(
		thmqi_shm_address(&(struct shm_place){.path = "x", .is_name = true}, &a, &len, &fd),
		0);
	cr_assert(a.sun_path[0] == 0 && a.sun_path[1] == 'x' && fd == -1);
	cr_assert_eq(len, offsetof(struct sockaddr_un, sun_path) + 2);
	memset(p.path + 5, '/', 200); /* as many as you like mean one */
	strcpy(p.path + 205, "socket");
	cr_assert_eq(thmqi_shm_address(&p, &a, &len, &fd), 0);
	cr_assert(fd >= 0 && strncmp(a.sun_path, "/proc/self/fd/", 14) == 0);
	close(fd);
	memset(p.path + 5, 'd', 200);
	cr_assert_eq(thmqi_shm_address(&p, &a, &len, &fd), -ENAMETOOLONG,
		     "there is no slash but the first one");
}

Test(transport_shm, what_one_side_writes_the_other_sees_and_neither_can_cut_it)
{
	const struct shm_sizes sizes = {.area_bytes = 4096,
					.up_frames = 64,
					.ctl_frames = 64,
					.down_frames = 8,
					.room_bytes = 8192};
	struct shm_arena a, b;
	int fd;

	cr_assert_eq(thmqi_shm_arena_make(&sizes, &a, &fd), 0);
	cr_assert_eq(thmqi_shm_arena_take(&sizes, fd, &b), 0);
	cr_assert_neq(a.map, b.map);
	cr_assert_eq(a.bytes, thmqi_shm_arena_bytes(&sizes));
	memset(a.area, 1, 4096);
	memset(b.room, 2, 8192);
	memset(a.up, 3, 64 * sizeof(*a.up));
	memset(b.down, 4, 8 * sizeof(*a.down));
	cr_assert(b.area[0] == 1 && b.area[4095] == 1 && a.room[0] == 2 && a.room[8191] == 2);
	cr_assert(((uint8_t *)b.up)[64 * 64 - 1] == 3 && ((uint8_t *)a.down)[0] == 4);
	cr_assert_eq((uintptr_t)a.area % 4096, 0);
	cr_assert_eq((uintptr_t)a.room % 4096, 0);
	cr_assert_neq(ftruncate(fd, 4096), 0);
	cr_assert_neq(ftruncate(fd, 1 << 30), 0);
	close(fd);
	thmqi_shm_arena_drop(&a);
	thmqi_shm_arena_drop(&b);
	thmqi_shm_arena_drop(&b); /* again is nothing */
}

Test(transport_shm, blocks_of_a_room_never_overlap_and_all_of_it_can_be_used)
{
	static uint8_t used[(1u << 20) / SHM_GRANULE];
	static uint32_t places[4096], lens[4096];
	struct thmqi_prng prng;
	struct shm_room r;
	uint32_t round, i, k, place;

	thmqi_prng_seed(&prng, 7);
	cr_assert_eq(thmqi_shm_room_init(&r, 1 << 20), 0);
	memset(places, 0xff, sizeof(places));
	for (round = 0; round < 200000; round++) {
		i = (uint32_t)thmqi_prng_below(&prng, 4096);
		if (places[i] != UINT32_MAX) {
			for (k = 0; k < (lens[i] + SHM_GRANULE - 1) / SHM_GRANULE; k++)
				used[thmqi_shm_room_offset(places[i]) / SHM_GRANULE + k]--;
			thmqi_shm_room_give(&r, places[i]);
			places[i] = UINT32_MAX;
			continue;
		}
		lens[i] = 1 + (uint32_t)thmqi_prng_below(&prng, round % 100 ? 1000 : 100000);
		place = places[i] = thmqi_shm_room_take(&r, lens[i]);
		if (place == UINT32_MAX)
			continue;
		cr_assert_leq(thmqi_shm_room_offset(place) + lens[i], 1u << 20);
		for (k = 0; k < (lens[i] + SHM_GRANULE - 1) / SHM_GRANULE; k++)
			cr_assert_eq(used[thmqi_shm_room_offset(place) / SHM_GRANULE + k]++, 0);
	}
	thmqi_shm_room_fini(&r);
	cr_assert_eq(thmqi_shm_room_init(&r, 1 << 20), 0);
	for (i = 0; thmqi_shm_room_take(&r, SHM_GRANULE) != UINT32_MAX; i++)
		;
	cr_assert_eq(i, 4096);
	cr_assert_eq(thmqi_shm_room_take(&r, 1), UINT32_MAX);
	thmqi_shm_room_give(&r, 17);
	cr_assert_eq(thmqi_shm_room_take(&r, SHM_GRANULE + 1), UINT32_MAX, "too small");
	cr_assert_eq(thmqi_shm_room_take(&r, 5), 17, "the last one first");
	thmqi_shm_room_fini(&r);
	cr_assert_eq(thmqi_shm_room_init(&r, 16 << 20), 0);
	cr_assert_neq(thmqi_shm_room_take(&r, THMQI_STREAM_RUN_MAX), UINT32_MAX);
	cr_assert_eq(thmqi_shm_room_take(&r, THMQI_STREAM_RUN_MAX + 1), UINT32_MAX,
		     "no run is so large");
	thmqi_shm_room_fini(&r);
}

Test(transport_shm, a_process_runs_or_is_stopped_or_gone)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		for (;;)
			pause();
	cr_assert(thmqi_shm_is_running(getpid()));
	cr_assert(thmqi_shm_is_running(pid));
	kill(pid, SIGSTOP);
	cr_assert_eq(waitpid(pid, &status, WUNTRACED), pid);
	cr_assert(!thmqi_shm_is_running(pid));
	cr_assert(!thmqi_shm_is_dead(pid), "it is stopped, and may go on");
	kill(pid, SIGKILL);
	cr_assert_eq(waitid(P_PID, (id_t)pid, NULL, WEXITED | WNOWAIT), 0);
	cr_assert(thmqi_shm_is_dead(pid), "though nobody has asked for its end");
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(!thmqi_shm_is_running(pid));
	cr_assert(thmqi_shm_is_dead(pid));
	cr_assert(!thmqi_shm_is_dead(getpid()));
	cr_assert(!thmqi_shm_is_dead(0), "of another namespace: it cannot be known");
	cr_assert(!thmqi_shm_is_running(0), "of another namespace: it cannot be known");
}
