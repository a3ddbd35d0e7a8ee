/* SPDX-License-Identifier: Apache-2.0 */
/* topology_here_test.c - placement on this machine: devices under real paths, and quotas of control groups in made-up folders. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "topology/topology.h"

static char root[64];

static void make_root(void)
{
	snprintf(root, sizeof(root), "/tmp/thmq-topology-XXXXXX");
	cr_assert(mkdtemp(root));
}

static void remove_root(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r '%s'", root);
	cr_assert_eq(system(command), 0);
}

TestSuite(topology_here, .init = make_root, .fini = remove_root, .timeout = 60);

static void write_file(const char *path, const char *text)
{
	char at[256], *slash;
	FILE *f;

	snprintf(at, sizeof(at), "%s/%s", root, path);
	for (slash = strchr(at + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(at, 0700);
		*slash = '/';
	}
	f = fopen(at, "w");
	cr_assert(f);
	fputs(text, f);
	fclose(f);
}

/* ------------------------------------------------------------------- quotas */

Test(topology_here, without_control_groups_there_is_no_quota)
{
	cr_assert_eq(thmqi_quota_percent_at("", root), 0);
	cr_assert_eq(thmqi_quota_percent_at("0::/a/b\n", root), 0);
	cr_assert_eq(thmqi_quota_percent_at("nonsense\n::\n0:\n0::relative\n", root), 0);
}

Test(topology_here, version_2_has_quota_and_period_in_a_file)
{
	write_file("a/b/cpu.max", "150000 100000\n");
	cr_assert_eq(thmqi_quota_percent_at("0::/a/b\n", root), 150);
	cr_assert_eq(thmqi_quota_percent_at("0::/a\n", root), 0);
	write_file("a/b/cpu.max", "max 100000\n");
	cr_assert_eq(thmqi_quota_percent_at("0::/a/b\n", root), 0);
	write_file("a/b/cpu.max", "5 100000\n");
	cr_assert_eq(thmqi_quota_percent_at("0::/a/b\n", root), 1, "none would be no limit");
}

Test(topology_here, the_least_of_all_groups_above_counts)
{
	write_file("a/b/c/cpu.max", "max 100000\n");
	write_file("a/b/cpu.max", "400000 100000\n");
	write_file("a/cpu.max", "250000 100000\n");
	cr_assert_eq(thmqi_quota_percent_at("0::/a/b/c\n", root), 250);
	write_file("a/b/c/cpu.max", "100000 100000\n");
	cr_assert_eq(thmqi_quota_percent_at("0::/a/b/c\n", root), 100);
}

Test(topology_here, in_a_container_the_path_may_be_the_hosts_and_the_mount_its_own)
{
	write_file("cpu.max", "75000 50000\n");
	cr_assert_eq(thmqi_quota_percent_at("0::/\n", root), 150);
	cr_assert_eq(thmqi_quota_percent_at("0::/docker/0123abcd\n", root), 150);
	cr_assert_eq(thmqi_quota_percent_at("0::/../..\n", root), 150);
}

Test(topology_here, version_1_has_two_files_and_minus_one_for_none)
{
	write_file("cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n");
	write_file("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
	cr_assert_eq(thmqi_quota_percent_at("9:memory:/x\n4:cpu,cpuacct:/x\n", root), 0);
	write_file("cpu,cpuacct/x/cpu.cfs_quota_us", "800000\n");
	cr_assert_eq(thmqi_quota_percent_at("9:memory:/x\n4:cpu,cpuacct:/x\n0::/\n", root), 800);
	cr_assert_eq(thmqi_quota_percent_at("9:cpuset:/x\n", root), 0, "a cpuset is no quota");
}

/* ------------------------------------------------------------------ devices */

Test(topology_here, a_path_has_a_device_also_before_it_is_made)
{
	struct thmqi_topology *t;
	struct thmq_machine there, here;
	char path[128];

	snprintf(path, sizeof(path), "%s/not/yet/made", root);
	cr_assert_eq(thmqi_topology_open(NULL, true, &t), 0);
	cr_assert(!thmqi_topology_is_foreign(t));
	cr_assert_eq(thmqi_topology_place(t, &(struct thmqi_place_request){.near_path = path}, 0,
					  NULL, &there),
		     0);
	cr_assert_eq(thmqi_topology_place(t, &(struct thmqi_place_request){.near_path = root}, 0,
					  NULL, &here),
		     0);
	cr_assert_str_eq(there.path_device, here.path_device);
	cr_assert_eq(there.path_node, here.path_node);
	cr_assert_eq(thmqi_topology_place(t, &(struct thmqi_place_request){.near_path = "data"}, 0,
					  NULL, &here),
		     0);
	cr_assert_eq(thmqi_topology_place(t,
					  &(struct thmqi_place_request){.near_path = "/proc/self"},
					  0, NULL, &here),
		     0);
	cr_assert_str_empty(here.path_device, "no disk is under it");
	cr_assert_eq(here.path_node, -1);
	thmqi_topology_close(t);
}

Test(topology_here, a_file_where_a_directory_must_be_is_said)
{
	struct thmqi_topology *t;
	char path[128];

	write_file("file", "");
	snprintf(path, sizeof(path), "%s/file/data", root);
	cr_assert_eq(thmqi_topology_open(NULL, true, &t), 0);
	cr_assert_eq(thmqi_topology_place(t, &(struct thmqi_place_request){.near_path = path}, 0,
					  NULL, NULL),
		     -ENOTDIR);
	cr_assert(strstr(thmq_errmsg(), path));
	thmqi_topology_close(t);
}

Test(topology_here, every_disk_and_card_of_this_machine_is_taken)
{
	static const char *const bad[] = {
		"", "no-such-card", "../lo",
		"a-name-that-is-far-too-long-for-any-interface-of-a-kernel-that-there-is"};
	struct thmqi_topology *t;
	struct dirent *e;
	DIR *d;

	cr_assert_eq(thmqi_topology_open(NULL, true, &t), 0);
	d = opendir("/sys/class/net");
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && strcmp(e->d_name, "bonding_masters") != 0)
			cr_assert_eq(thmqi_topology_place(
					     t,
					     &(struct thmqi_place_request){.near_nic = e->d_name},
					     0, NULL, NULL),
				     0, "%s", e->d_name);
	if (d)
		closedir(d);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(thmqi_topology_place(t,
						  &(struct thmqi_place_request){.near_nic = bad[i]},
						  0, NULL, NULL),
			     -ENODEV);
	d = opendir("/dev");
	while (d && (e = readdir(d))) {
		struct thmq_machine m;
		char path[PATH_MAX];
		struct stat st;

		snprintf(path, sizeof(path), "/dev/%s", e->d_name);
		if (stat(path, &st) != 0 || !S_ISBLK(st.st_mode))
			continue;
		cr_assert_eq(thmqi_topology_place(t,
						  &(struct thmqi_place_request){.near_path = path},
						  0, NULL, &m),
			     0);
		cr_assert(m.path_device[0] || access("/sys/dev/block", F_OK) != 0, "%s", path);
	}
	if (d)
		closedir(d);
	thmqi_topology_close(t);
}
