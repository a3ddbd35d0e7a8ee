/* SPDX-License-Identifier: Apache-2.0 */
/* replay.c - the main of a fuzz target in the ordinary suite: each file of its corpus once. Exit 0: none did any harm. */
#include <dirent.h>

#include "fuzz.h"

static void one(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data;
	long size;

	if (!f || fseek(f, 0, SEEK_END) || (size = ftell(f)) < 0 || fseek(f, 0, SEEK_SET)) {
		perror(path);
		exit(1);
	}
	data = malloc(size ? (size_t)size
			   : 1); /* of its exact size: what lies behind is nobody's */
	if (!data || fread(data, 1, (size_t)size, f) != (size_t)size)
		exit(1);
	fclose(f);
	fprintf(stderr, "%s\n", path); /* the last one is the one that did it */
	LLVMFuzzerTestOneInput(data, (size_t)size);
	free(data);
}

int main(int argc, char **argv)
{
	struct dirent **names;
	char path[4096];
	int n, i, files = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: %s corpus\n", argv[0]);
		return 2;
	}
	n = scandir(argv[1], &names, NULL, alphasort);
	if (n < 0) { /* not a directory: one input */
		one(argv[1]);
		return 0;
	}
	for (i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.') {
			snprintf(path, sizeof(path), "%s/%s", argv[1], names[i]->d_name);
			one(path);
			files++;
		}
		free(names[i]);
	}
	free(names);
	printf("%d inputs\n", files);
	return files ? 0 : 1; /* no corpus, no test */
}
