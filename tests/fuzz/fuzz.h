/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz.h - what all fuzz targets share: an input read piece by piece, checks that end the run. A target is one function on
 * bytes; libFuzzer calls it with what it makes up (-Dfuzz=true), replay.c with the files of its corpus.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(x, ...) ((x) ? (void)0 : fuzz_failed(__FILE__, __LINE__, #x, "" __VA_ARGS__))

static inline __attribute__((noreturn)) void fuzz_failed(const char *file, int line,
							 const char *what, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "%s:%d: %s: ", file, line, what);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	abort();
}

struct fuzz_input {
	const uint8_t *at;
	size_t left;
};

/* Little endian; zeros behind the end. */
static inline uint64_t fuzz_take(struct fuzz_input *in, uint32_t width)
{
	uint64_t value = 0;
	uint32_t n = width < in->left ? width : (uint32_t)in->left;

	for (uint32_t i = 0; i < n; i++)
		value |= (uint64_t)in->at[i] << (8 * i);
	in->at += n;
	in->left -= n;
	return value;
}

/* All these bytes may be read, or a sanitizer says so: crc.c. */
void fuzz_touch(const void *data, size_t len);

#endif
