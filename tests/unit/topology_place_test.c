/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topology_place_test.c - where cores go on machines that are not here: described in a line, or in the files of the folder
 * topology. Nothing is bound.
 */
#include <criterion/criterion.h>
#include <stdio.h>

#include "topology/topology.h"

#ifndef MACHINES
#define MACHINES "tests/unit/topology"
#endif

static struct thmqi_topology *topology;
static struct thmq_place places[256];
static struct thmq_machine machine;

TestSuite(topology_place, .timeout = 60);

static void open_machine(const struct thmqi_machine_source *source)
{
	cr_assert_eq(thmqi_topology_open(source, true, &topology), 0);
	cr_assert(thmqi_topology_is_foreign(topology));
}

#define OPEN(...) open_machine(&(struct thmqi_machine_source){__VA_ARGS__})
#define PLACE(count, ...)                                                                          \
	thmqi_topology_place(topology, &(struct thmqi_place_request){__VA_ARGS__}, count, places,  \
			     &machine)

/* The processors of the first @count places, as "0 1 2". */
static void expect(uint32_t count, const char *cpus)
{
	char text[2048] = "";
	size_t len = 0;

	for (uint32_t i = 0; i < count; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%d", i ? " " : "",
					places[i].cpu);
	cr_assert_str_eq(text, cpus);
}

/* ---------------------------------------------------------------- 2 x 32 x 2 */

#define LARGE "Package:2 [NUMANode(memory=64GB)] L3:2 Core:16 PU:2"

Test(topology_place,
     from_1_to_64_cores_each_has_a_physical_core_and_a_node_is_filled_before_the_next)
{
	uint32_t count, i;

	OPEN(.synthetic = LARGE);
	for (count = 1; count <= 64; count++) {
		bool taken[64] = {false};

		cr_assert_eq(PLACE(count), 0);
		for (i = 0; i < count; i++) {
			cr_assert(!taken[places[i].physical_core], "%u cores, core %u", count, i);
			taken[places[i].physical_core] = true;
			cr_assert_eq(places[i].node, i < 32 ? 0 : 1);
			cr_assert_eq(places[i].memory_node, places[i].node);
			cr_assert_eq(places[i].package, places[i].node);
			cr_assert_eq(places[i].flags, 0);
			cr_assert_eq(places[i].error, 0);
		}
	}
	cr_assert_eq(machine.cpu_count, 128);
	cr_assert_eq(machine.physical_count, 64);
	cr_assert_eq(machine.node_count, 2);
	cr_assert_eq(machine.package_count, 2);
	cr_assert_eq(machine.quota_percent, 0);
	cr_assert_eq(machine.path_node, -1);
	thmqi_topology_close(topology);
}

Test(topology_place, siblings_come_behind_all_physical_cores_and_further_cores_share)
{
	OPEN(.synthetic = LARGE);
	cr_assert_eq(PLACE(130), 0);
	for (uint32_t i = 0; i < 130; i++) {
		cr_assert_eq(places[i].physical_core, i % 64);
		cr_assert_eq(places[i].flags & THMQ_PLACE_SIBLING, i < 64 ? 0 : THMQ_PLACE_SIBLING);
		cr_assert_eq(places[i].flags & THMQ_PLACE_SHARED, i < 128 ? 0 : THMQ_PLACE_SHARED);
	}
	cr_assert_eq(places[128].cpu, places[0].cpu);
	thmqi_topology_close(topology);
}

Test(topology_place, is_the_same_each_time)
{
	struct thmq_place before[64];

	OPEN(.synthetic = LARGE);
	cr_assert_eq(PLACE(64), 0);
	memcpy(before, places, sizeof(before));
	thmqi_topology_close(topology);
	OPEN(.synthetic = LARGE);
	cr_assert_eq(PLACE(64), 0);
	cr_assert_arr_eq(before, places, sizeof(before));
	thmqi_topology_close(topology);
}

/* ------------------------------------------------------------------ devices */

Test(topology_place, cores_fill_the_node_of_the_disk_first)
{
	OPEN(.xml_path = MACHINES "/devices.xml");
	cr_assert_eq(PLACE(16), 0);
	expect(16, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15");
	cr_assert_eq(PLACE(16, .near_path = "nvme1n1"), 0);
	/* all physical cores first, near or far: a sibling halves both */
	expect(16, "4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11");
	cr_assert_eq(machine.path_node, 1);
	cr_assert_str_eq(machine.path_device, "nvme1n1");
	cr_assert_eq(places[0].flags, THMQ_PLACE_NEAR_PATH);
	cr_assert_eq(places[4].flags, 0);
	cr_assert_eq(places[8].flags, THMQ_PLACE_NEAR_PATH | THMQ_PLACE_SIBLING);
	cr_assert_eq(PLACE(2, .near_path = "nvme0n1"), 0);
	expect(2, "0 1");
	thmqi_topology_close(topology);
}

Test(topology_place, near_a_card_by_its_name_as_interface_or_rdma_device)
{
	OPEN(.xml_path = MACHINES "/devices.xml");
	cr_assert_eq(PLACE(5, .near_nic = "mlx5_0"), 0);
	expect(5, "4 5 6 7 0");
	cr_assert_eq(machine.nic_node, 1);
	cr_assert_eq(places[0].flags, THMQ_PLACE_NEAR_NIC);
	cr_assert_eq(PLACE(1, .near_nic = "eth0"), 0);
	expect(1, "0");
	cr_assert_eq(PLACE(1, .near_nic = "eth9"), -ENODEV);
	cr_assert(strstr(thmq_errmsg(), "eth9"));
	cr_assert_eq(PLACE(1, .near_nic = "nvme0n1"), -ENODEV, "a disk is no card");
	thmqi_topology_close(topology);
}

Test(topology_place, the_disk_counts_before_the_card)
{
	OPEN(.xml_path = MACHINES "/devices.xml");
	cr_assert_eq(PLACE(5, .near_path = "nvme0n1", .near_nic = "mlx5_0"), 0);
	expect(5, "0 1 2 3 4");
	cr_assert_eq(places[0].flags, THMQ_PLACE_NEAR_PATH);
	cr_assert_eq(places[4].flags, THMQ_PLACE_NEAR_NIC);
	cr_assert_eq(machine.path_node, 0);
	cr_assert_eq(machine.nic_node, 1);
	thmqi_topology_close(topology);
}

Test(topology_place, a_disk_that_nobody_knows_changes_nothing)
{
	OPEN(.xml_path = MACHINES "/devices.xml");
	cr_assert_eq(PLACE(3, .near_path = "sdz"), 0);
	expect(3, "0 1 2");
	cr_assert_eq(machine.path_node, -1);
	cr_assert_str_empty(machine.path_device);
	thmqi_topology_close(topology);
}

/* ------------------------------------------------------------------- limits */

Test(topology_place, only_what_the_cpuset_allows)
{
	OPEN(.xml_path = MACHINES "/devices.xml", .allowed = "1,3,5,7,9,11,13,15");
	cr_assert_eq(thmqi_topology_cpu_count(topology), 8);
	cr_assert_eq(PLACE(9, .near_path = "nvme1n1"), 0);
	expect(9, "5 7 1 3 13 15 9 11 5");
	cr_assert_eq(machine.cpu_count, 8);
	cr_assert_eq(machine.physical_count, 4);
	cr_assert_eq(PLACE(1, .cpus = "2"), -EINVAL);
	cr_assert(strstr(thmq_errmsg(), "1,3,5,7,9,11,13,15"));
	thmqi_topology_close(topology);
}

Test(topology_place, a_sibling_whose_first_thread_is_not_allowed_is_no_sibling)
{
	OPEN(.xml_path = MACHINES "/devices.xml", .allowed = "1,8,9");
	cr_assert_eq(PLACE(3), 0);
	expect(3, "8 1 9");
	cr_assert_eq(places[0].flags, 0);
	cr_assert_eq(places[2].flags, THMQ_PLACE_SIBLING);
	thmqi_topology_close(topology);
}

Test(topology_place, a_single_processor_has_them_all)
{
	OPEN(.synthetic = "PU:1");
	cr_assert_eq(PLACE(3), 0);
	expect(3, "0 0 0");
	cr_assert_eq(places[0].flags, 0);
	cr_assert_eq(places[2].flags, THMQ_PLACE_SHARED | THMQ_PLACE_SIBLING);
	cr_assert_eq(places[0].node, 0);
	cr_assert_eq(machine.cpu_count, 1);
	cr_assert_eq(machine.physical_count, 1);
	thmqi_topology_close(topology);
}

Test(topology_place, no_processor_at_all_is_said_and_no_crash)
{
	OPEN(.synthetic = "Core:2 PU:2", .allowed = "77");
	cr_assert_eq(PLACE(2), 0);
	cr_assert_eq(places[1].cpu, -1);
	cr_assert_eq(places[1].error, -ENOTSUP);
	cr_assert_eq(machine.cpu_count, 0);
	cr_assert_eq(PLACE(2, .has_first = true), 0);
	cr_assert_eq(PLACE(1, .cpus = "0"), -EINVAL);
	thmqi_topology_close(topology);
}

/* -------------------------------------------------------------------- kinds */

Test(topology_place, fast_processors_before_slow_ones_and_those_before_siblings)
{
	OPEN(.xml_path = MACHINES "/hybrid.xml");
	cr_assert_eq(PLACE(8), 0);
	expect(8, "4 6 0 1 2 3 5 7");
	cr_assert_eq(places[0].flags, 0);
	cr_assert_eq(places[2].flags, THMQ_PLACE_EFFICIENCY);
	cr_assert_eq(places[6].flags, THMQ_PLACE_SIBLING);
	thmqi_topology_close(topology);
}

Test(topology_place, a_node_without_memory_comes_last_and_one_without_processors_never)
{
	OPEN(.xml_path = MACHINES "/nodes.xml");
	cr_assert_eq(PLACE(8), 0);
	expect(8, "4 5 6 7 0 1 2 3");
	cr_assert_eq(machine.node_count, 3);
	cr_assert_eq(places[0].node, 1);
	cr_assert_eq(places[0].memory_node, 1);
	cr_assert_eq(places[4].node, 0);
	cr_assert_eq(places[4].memory_node, 2, "the one that all are next to");
	/* but its disk is there */
	cr_assert_eq(PLACE(1, .near_path = "nvme0n1"), 0);
	expect(1, "0");
	thmqi_topology_close(topology);
}

/* ----------------------------------------------------------------- requests */

Test(topology_place, a_list_is_taken_as_it_is_written)
{
	OPEN(.xml_path = MACHINES "/devices.xml");
	cr_assert_eq(PLACE(4, .cpus = "9,2-3,0"), 0);
	expect(4, "9 2 3 0");
	cr_assert_eq(places[3].flags, 0);
	cr_assert_eq(PLACE(2, .cpus = "1,9"), 0);
	cr_assert_eq(places[1].flags, THMQ_PLACE_SIBLING);
	cr_assert_eq(PLACE(2, .cpus = "0-15"), 0, "some are left over");
	cr_assert_eq(PLACE(3, .cpus = "1,9"), -EINVAL, "some are missing");
	thmqi_topology_close(topology);
}

Test(topology_place, a_list_that_is_none_is_refused)
{
	static const char *const bad[] = {"",
					  " ",
					  "x",
					  "1,",
					  ",1",
					  "1,,2",
					  "3-",
					  "3-2",
					  "-1",
					  "1-2-3",
					  "1 2",
					  "0x1",
					  "1;2",
					  "1,1",
					  "0-3,2",
					  "99",
					  "4294967296",
					  "99999999999999999999999",
					  "0-4294967295"};
	size_t i;

	OPEN(.xml_path = MACHINES "/devices.xml");
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(PLACE(1, .cpus = bad[i]), -EINVAL, "\"%s\"", bad[i]);
	thmqi_topology_close(topology);
}

Test(topology_place, the_first_counts_in_the_order_of_numbers)
{
	OPEN(.xml_path = MACHINES "/devices.xml", .allowed = "1,3,5-7");
	cr_assert_eq(PLACE(6, .has_first = true, .first = 3), 0);
	expect(6, "6 7 1 3 5 6");
	cr_assert_eq(PLACE(1, .has_first = true, .first = 5), -EINVAL);
	cr_assert(strstr(thmq_errmsg(), "0 to 4"));
	thmqi_topology_close(topology);
}

Test(topology_place, nothing_is_bound_to_a_machine_that_is_not_here)
{
	OPEN(.synthetic = LARGE);
	cr_assert_eq(thmqi_topology_bind(topology, 0), -ENOTSUP);
	cr_assert_eq(thmqi_topology_unbind(topology), -ENOTSUP);
	thmqi_topology_close(topology);
}

Test(topology_place, a_description_that_is_none_is_refused)
{
	struct thmqi_topology *t;

	cr_assert_lt(thmqi_topology_open(&(struct thmqi_machine_source){.synthetic = "Nonsense:2"},
					 true, &t),
		     0);
	cr_assert_lt(thmqi_topology_open(
			     &(struct thmqi_machine_source){.xml_path = MACHINES "/absent.xml"},
			     true, &t),
		     0);
	cr_assert_lt(thmqi_topology_open(
			     &(struct thmqi_machine_source){.synthetic = "PU:2", .allowed = "x"},
			     true, &t),
		     0);
}

/* ---------------------------------------------------------------------- taken */

Test(topology_place, processors_that_others_of_the_process_are_bound_to_come_last)
{
	OPEN(.synthetic = "Package:1 [NUMANode(memory=8GB)] Core:4 PU:1", .taken = "0,2");
	cr_assert_eq(PLACE(4), 0);
	expect(4, "1 3 0 2");
	cr_assert_eq(places[1].flags & THMQ_PLACE_SHARED, 0);
	cr_assert_eq(places[2].flags & THMQ_PLACE_SHARED, THMQ_PLACE_SHARED);
	/* who says where gets that */
	cr_assert_eq(PLACE(2, .cpus = "0,2"), 0);
	expect(2, "0 2");
	cr_assert_eq(PLACE(2, .has_first = true, .first = 0), 0);
	expect(2, "0 1");
	thmqi_topology_close(topology);
}

Test(topology_place, the_sibling_of_a_taken_processor_comes_behind_free_physical_cores)
{
	OPEN(.synthetic = "Package:1 [NUMANode(memory=8GB)] Core:3 PU:2", .taken = "0");
	cr_assert_eq(PLACE(6), 0);
	expect(6, "2 4 1 3 5 0");
	thmqi_topology_close(topology);
}

Test(topology_place, where_all_are_taken_the_order_is_as_it_was)
{
	OPEN(.synthetic = "Package:1 [NUMANode(memory=8GB)] Core:3 PU:1", .taken = "0-2");
	cr_assert_eq(PLACE(3), 0);
	expect(3, "0 1 2");
	thmqi_topology_close(topology);
}
