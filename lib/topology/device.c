/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c - which processors a disk or a network card hangs on: from a path to its block device by the kernel's sysfs, from a
 * device's name to its place in the machine by hwloc. Not knowing is no error: a file system in memory or over a network, a
 * virtual card and most virtual machines have no place.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "internal.h"

#define STACKED_MAX 8u /* block devices above each other, as LVM on RAID on disks */

/* ------------------------------------------------------------------- hwloc */

static hwloc_obj_t find(const struct thmqi_topology *t, const char *name, bool nic)
{
	hwloc_obj_t o = NULL;

	while ((o = hwloc_get_next_osdev(t->hwloc, o))) {
		hwloc_obj_osdev_type_t type = o->attr->osdev.type;
		bool is_nic =
			type == HWLOC_OBJ_OSDEV_NETWORK || type == HWLOC_OBJ_OSDEV_OPENFABRICS;

		if ((nic ? is_nic : type == HWLOC_OBJ_OSDEV_BLOCK) && o->name &&
		    strcmp(o->name, name) == 0)
			return o;
	}
	return NULL;
}

/* What has all processors of the machine under it is near to all of them: that says nothing. */
static void take(const struct thmqi_topology *t, hwloc_obj_t device, struct near_device *ret)
{
	hwloc_obj_t o;

	snprintf(ret->name, sizeof(ret->name), "%.31s", device->name);
	o = hwloc_get_non_io_ancestor_obj(t->hwloc, device);
	if (o && o->cpuset && !hwloc_bitmap_iszero(o->cpuset) && o != hwloc_get_root_obj(t->hwloc))
		ret->anchor = o;
}

/* ------------------------------------------------------------------- sysfs */

/* The first entry of a directory that begins with @prefix, without it. */
static bool first_entry(const char *dir, const char *prefix, char *name, size_t size)
{
	size_t skip = strlen(prefix);
	DIR *d = opendir(dir);
	struct dirent *e;
	bool found = false;

	if (!d)
		return false;
	while (!found && (e = readdir(d)))
		if (e->d_name[0] != '.' && strncmp(e->d_name, prefix, skip) == 0 &&
		    strlen(e->d_name + skip) < size) {
			snprintf(name, size, "%s", e->d_name + skip);
			found = true;
		}
	closedir(d);
	return found;
}

/* The name of the disk that @at, of sysfs, is or is a part of. */
static bool disk_name(const char *at, char *name, size_t size)
{
	char real[PATH_MAX], file[PATH_MAX + 16], *slash;

	if (!realpath(at, real))
		return false;
	snprintf(file, sizeof(file), "%s/partition", real);
	slash = strrchr(real, '/');
	if (access(file, F_OK) == 0 && slash) {
		*slash = 0;
		slash = strrchr(real, '/');
	}
	if (!slash || strlen(slash + 1) >= size)
		return false;
	snprintf(name, size, "%s", slash + 1);
	return true;
}

static hwloc_obj_t find_disk(const struct thmqi_topology *t, dev_t device, struct near_device *ret)
{
	char at[PATH_MAX], name[64], below[64];
	hwloc_obj_t found = NULL;
	uint32_t i;

	snprintf(at, sizeof(at), "/sys/dev/block/%u:%u", major(device), minor(device));
	for (i = 0; i < STACKED_MAX && !found; i++) {
		if (!disk_name(at, name, sizeof(name)))
			break;
		snprintf(ret->name, sizeof(ret->name), "%.31s", name);
		found = find(t, name, false);
		/* what is made of several disks is near the first of them */
		snprintf(at, sizeof(at), "/sys/class/block/%s/slaves", name);
		if (found || !first_entry(at, "", below, sizeof(below)))
			break;
		snprintf(at, sizeof(at), "/sys/class/block/%s", below);
	}
	return found;
}

/* The device of @path, or of the directory that it will be made in. */
static int device_number(const char *path, dev_t *ret_device)
{
	char at[PATH_MAX], *slash;
	struct stat st;

	if (snprintf(at, sizeof(at), "%s", path) >= (int)sizeof(at))
		return -ENAMETOOLONG;
	while (stat(at, &st) != 0) {
		if (errno != ENOENT)
			return -errno;
		slash = strrchr(at, '/');
		if (slash == at && at[1])
			at[1] = 0;
		else if (slash && slash != at)
			*slash = 0;
		else if (strcmp(at, ".") != 0)
			snprintf(at, sizeof(at), ".");
		else
			return -ENOENT;
	}
	*ret_device = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	return 0;
}

/* ----------------------------------------------------------------- requests */

int thmqi_device_of_path(const struct thmqi_topology *t, const char *path, struct near_device *ret)
{
	hwloc_obj_t found;
	dev_t device;
	int rc;

	memset(ret, 0, sizeof(*ret));
	if (t->foreign) {
		found = find(t, path, false);
	} else {
		rc = device_number(path, &device);
		if (rc)
			return thmqi_fail(rc, "place the cores near %s: %s", path,
					  thmq_strerror(rc));
		found = find_disk(t, device, ret);
	}
	if (found)
		take(t, found, ret);
	return 0;
}

int thmqi_device_of_nic(const struct thmqi_topology *t, const char *name, struct near_device *ret)
{
	char at[PATH_MAX], current[64], below[64];
	hwloc_obj_t found = NULL;
	uint32_t i;

	memset(ret, 0, sizeof(*ret));
	if (strlen(name) < sizeof(current) && !strchr(name, '/')) {
		snprintf(current, sizeof(current), "%s", name);
		found = find(t, current, true);
	}
	if (!found &&
	    (t->foreign || strlen(name) >= sizeof(current) || !*name || strchr(name, '/') ||
	     (snprintf(at, sizeof(at), "/sys/class/net/%s", name) > 0 && access(at, F_OK) != 0)))
		return thmqi_fail(-ENODEV,
				  "place the cores near %s: there is no network interface or RDMA "
				  "device of that name",
				  name);
	/* a bond, bridge or VLAN is near the first that it is made of */
	for (i = 0; i < STACKED_MAX && !found; i++) {
		snprintf(at, sizeof(at), "/sys/class/net/%s", current);
		if (!first_entry(at, "lower_", below, sizeof(below)))
			break;
		memcpy(current, below, sizeof(current));
		found = find(t, current, true);
	}
	snprintf(ret->name, sizeof(ret->name), "%.31s", name);
	if (found)
		take(t, found, ret);
	return 0;
}
