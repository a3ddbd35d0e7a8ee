/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_fio.c - fio as a rival: see rig_fio.h.
 */
#include "rig_fio.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE (1u << 20)

struct rig_fio {
	char path[4096];
	uint64_t bytes;
	int cpu;
};

static void lay_out(const struct rig_fio *f)
{
	char *zeros = aligned_alloc(4096, PIECE);
	int fd = open(f->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0 || !zeros)
		bench_die(f->path, errno);
	memset(zeros, 0, PIECE);
	for (uint64_t at = 0; at < f->bytes; at += PIECE)
		if (pwrite(fd, zeros, PIECE, (off_t)at) != (ssize_t)PIECE)
			bench_die("fio's file", errno ? errno : EIO);
	if (fsync(fd) != 0)
		bench_die("fio's file", errno);
	posix_fadvise(
		fd, 0, 0,
		POSIX_FADV_DONTNEED); /* no page of it is in memory: fio would drop them at its start */
	close(fd);
	free(zeros);
}

/* "bw_bytes" in the object "write" of fio's JSON. */
static double bandwidth_of(const char *json)
{
	const char *at = strstr(json, "\"write\" :");

	if (at)
		at = strstr(at, "\"bw_bytes\" :");
	return at ? strtod(at + strlen("\"bw_bytes\" :"), NULL) : 0;
}

/* Return: bytes a second, 0 if fio is not there or fails. */
static double run(const struct rig_fio *f, uint32_t write_bytes, unsigned depth)
{
	static char json[1 << 16];
	char command[8192], cpus[64] = "";
	size_t have = 0, n;
	FILE *out;

	if (f->cpu >= 0)
		snprintf(cpus, sizeof(cpus), "--cpus_allowed=%d", f->cpu);
	snprintf(command, sizeof(command),
		 "fio --name=log --filename='%s' --size=%llu --rw=write --bs=%u --iodepth=%u "
		 "--ioengine=io_uring "
		 "--fixedbufs --registerfiles --direct=1 --sync=dsync --fallocate=none "
		 "--overwrite=1 --thread "
		 "--gtod_reduce=1 --output-format=json %s 2>/dev/null",
		 f->path, (unsigned long long)f->bytes, write_bytes, depth, cpus);
	out = popen(command, "re");
	if (!out)
		return 0;
	while (have < sizeof(json) - 1 &&
	       (n = fread(json + have, 1, sizeof(json) - 1 - have, out)) > 0)
		have += n;
	json[have] = 0;
	return pclose(out) == 0 ? bandwidth_of(json) : 0;
}

struct rig_fio *rig_fio_open(const struct bench *b, const char *dir, uint64_t bytes)
{
	struct rig_fio *f = calloc(1, sizeof(*f));

	if (!f)
		bench_die("fio", ENOMEM);
	if ((size_t)snprintf(f->path, sizeof(f->path), "%s/fio.dat", dir) >= sizeof(f->path) ||
	    strchr(dir, '\''))
		bench_die(dir, ENAMETOOLONG);
	f->bytes = (bytes + PIECE - 1) / PIECE * PIECE;
	f->cpu = b->cpu_core;
	lay_out(f);
	if (run(f, PIECE, 4) > 0)
		return f;
	rig_fio_close(f);
	return NULL;
}

void rig_fio_close(struct rig_fio *f)
{
	if (!f)
		return;
	unlink(f->path);
	free(f);
}

double rig_fio_stream(struct rig_fio *f, uint32_t write_bytes, unsigned depth)
{
	double rate = run(f, write_bytes, depth);

	if (rate <= 0)
		bench_die("fio", EIO);
	return rate;
}
