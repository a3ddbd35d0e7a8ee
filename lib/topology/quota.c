/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quota.c - how much of the processors the control groups of this process let it use over time. A cpuset says which processors
 * there are, a quota for how long in each period: threads that spin use it up, and then the whole process stands still
 * to the period's end. Source: the kernel's admin-guide/cgroup-v2.rst (cpu.max), scheduler/sched-bwc.rst (cpu.cfs_quota_us).
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "internal.h"

#define MEMBERSHIP_BYTES 8192u

/* A small file, as a string. Whether there is one. */
static bool read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = 1;

	if (fd < 0)
		return false;
	while (len + 1 < size && (n = read(fd, text + len, size - 1 - len)) > 0)
		len += (size_t)n;
	close(fd);
	text[len] = 0;
	return n >= 0;
}

static uint32_t percent(long long quota, long long period)
{
	if (quota <= 0 || period <= 0 || quota > LLONG_MAX / 100)
		return 0;
	return (uint32_t)THMQI_MIN(THMQI_MAX(quota * 100 / period, 1), (long long)UINT32_MAX);
}

/* Of one group: version 2 has both in one file, and "max" for none; version 1 has -1 for none. */
static uint32_t of_group(const char *group)
{
	long long quota = 0, period = 0;
	char path[PATH_MAX + 32], text[64];

	snprintf(path, sizeof(path), "%s/cpu.max", group);
	if (read_text(path, text, sizeof(text)))
		return sscanf(text, "%lld %lld", &quota, &period) == 2 ? percent(quota, period) : 0;
	snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", group);
	if (!read_text(path, text, sizeof(text)) || sscanf(text, "%lld", &quota) != 1)
		return 0;
	snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", group);
	if (!read_text(path, text, sizeof(text)) || sscanf(text, "%lld", &period) != 1)
		return 0;
	return percent(quota, period);
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return !a ? b : !b ? a : THMQI_MIN(a, b);
}

/* The group and all above it. In a container the path may be the host's and the mount the container's: what is not there says
 * nothing, and the mount itself is always looked at. */
static uint32_t of_hierarchy(const char *mount, const char *path)
{
	char group[PATH_MAX];
	uint32_t least = 0;
	size_t root = strlen(mount), len;

	if (snprintf(group, sizeof(group), "%s%s", mount, path) >= (int)sizeof(group))
		return 0;
	for (len = strlen(group); len > root; len = (size_t)(strrchr(group, '/') - group)) {
		group[len] = 0;
		least = smaller(least, of_group(group));
	}
	group[root] = 0;
	return smaller(least, of_group(group));
}

/* Is "cpu" one of "cpu,cpuacct"? */
static bool names_cpu(const char *controllers)
{
	const char *at = controllers;

	while (*at) {
		size_t len = strcspn(at, ",");

		if (len == 3 && strncmp(at, "cpu", 3) == 0)
			return true;
		at += len + (at[len] == ',');
	}
	return false;
}

/* A line is "number:controllers:/path"; version 2 has "0::/path". */
static uint32_t of_line(char *line, const char *mount)
{
	char *controllers = strchr(line, ':'),
	     *path = controllers ? strchr(controllers + 1, ':') : NULL;
	char at[PATH_MAX];

	if (!path || path[1] != '/')
		return 0;
	*path++ = 0;
	controllers++;
	if (!*controllers)
		return of_hierarchy(mount, path);
	if (!names_cpu(controllers) ||
	    snprintf(at, sizeof(at), "%s/%s", mount, controllers) >= (int)sizeof(at))
		return 0;
	return of_hierarchy(at, path);
}

uint32_t thmqi_quota_percent_at(const char *membership, const char *mount)
{
	char text[MEMBERSHIP_BYTES], *line, *rest = text;
	uint32_t least = 0;

	if (strlen(membership) >= sizeof(text))
		return 0;
	memcpy(text, membership, strlen(membership) + 1);
	while ((line = strsep(&rest, "\n")))
		least = smaller(least, of_line(line, mount));
	return least;
}

uint32_t thmqi_quota_percent(void)
{
	char text[MEMBERSHIP_BYTES];

	return read_text("/proc/self/cgroup", text, sizeof(text))
		       ? thmqi_quota_percent_at(text, "/sys/fs/cgroup")
		       : 0;
}
