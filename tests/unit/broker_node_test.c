/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_node_test.c - the file `node` of a broker that has copies: on a disk without any room, after a torn write, as an older version wrote it. One broker
 * that is a cluster by itself, on a simulated disk.
 */
#include <criterion/criterion.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

TestSuite(broker_node, .timeout = 60);

#define SECOND 1000000000ull
#define BLOCK 4096u

static struct thmqi_disk_sim *sim;
static struct thmq_env *env;
static struct thmq_broker *broker;

static void begin(void)
{
	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &sim), 0);
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), thmqi_disk_sim_world(sim), &env), 0);
}

static int reopen(void)
{
	if (broker)
		thmq_broker_close(broker, SECOND);
	broker = NULL;
	return thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1, .segment_bytes = 1u << 20, .cluster = "1=inproc://b", .name = "b", .node_id = 1),
				&broker);
}

static void end(void)
{
	thmq_env_close(env, SECOND);
	thmqi_disk_sim_close(sim);
}

static void access_node(void *block, uint64_t at, bool write)
{
	const struct thmqi_disk_table *disk = &thmqi_disk_sim;
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_file *file;

	cr_assert_eq(disk->dir_open(sim, "data", false, &dir), 0);
	cr_assert_eq(disk->file_open(dir, "node", write, &file), 0);
	if (write)
		cr_assert_eq(disk->file_write(file, block, BLOCK, at, true), 0);
	else
		cr_assert_eq(disk->file_read(file, block, BLOCK, at), BLOCK);
	disk->file_close(file);
	disk->dir_close(dir);
}

/* As it says of itself. */
static uint64_t life(uint32_t slot)
{
	static _Alignas(BLOCK) uint8_t block[BLOCK];
	uint64_t is;

	access_node(block, slot * BLOCK, false);
	memcpy(&is, block + 40, sizeof(is));
	return is;
}

Test(broker_node, a_broker_opens_again_where_the_disk_has_no_room_at_all, .init = begin, .fini = end)
{
	struct thmqi_disk_sim_stats is;
	uint32_t i;

	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	thmqi_disk_sim_stats(sim, &is);
	for (i = 0; i < 5; i++) {
		thmqi_disk_sim_set_capacity(sim, 1); /* nothing grows */
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		thmqi_disk_sim_set_capacity(sim, 0);
	}
}

Test(broker_node, of_a_torn_write_the_one_before_is_left, .init = begin, .fini = end)
{
	uint64_t newest, was;
	uint32_t i, slot;

	for (i = 0; i < 5; i++) {
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		thmq_broker_close(broker, SECOND);
		broker = NULL;
		slot = life(1) > life(0);
		newest = life(slot);
		was = life(!slot);
		cr_assert_eq(thmqi_disk_sim_damage(sim, "data", "node", slot * BLOCK, 1000), 0);
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		cr_assert_eq(life(slot), was + 1); /* it is overwritten; nobody has met the one that was torn */
		cr_assert_leq(was, newest);
	}
	thmq_broker_close(broker, SECOND);
	broker = NULL;
	cr_assert_eq(thmqi_disk_sim_damage(sim, "data", "node", 0, 1000), 0);
	cr_assert_eq(thmqi_disk_sim_damage(sim, "data", "node", BLOCK, 1000), 0);
	cr_assert_eq(reopen(), -THMQ_ECORRUPT);
}

/* One block, whose checksum lies elsewhere. */
Test(broker_node, a_file_of_one_block_is_taken_over, .init = begin, .fini = end)
{
	static _Alignas(BLOCK) uint8_t block[BLOCK];
	const uint16_t version = 2;
	uint64_t was;
	uint32_t crc;

	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	thmq_broker_close(broker, SECOND);
	broker = NULL;
	was = THMQI_MAX(life(0), life(1));
	access_node(block, life(1) > life(0) ? BLOCK : 0, false);
	memcpy(block + 4, &version, sizeof(version));
	crc = thmqi_crc32c(0, block, 1084);
	memcpy(block + 1084, &crc, sizeof(crc));
	memset(block + 1088, 0, BLOCK - 1088);
	access_node(block, 0, true);
	memset(block, 0, BLOCK); /* nothing of a second one */
	access_node(block, BLOCK, true);
	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	cr_assert_eq(THMQI_MAX(life(0), life(1)), was + 1);
	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	cr_assert_eq(THMQI_MAX(life(0), life(1)), was + 2);
}
