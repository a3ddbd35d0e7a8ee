/* SPDX-License-Identifier: Apache-2.0 */
/* Who loads the library, leaves an environment open whose core has a thread, and unloads it, goes on: dlclose(3) takes no code away that runs. */
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

#include "thundermq/thundermq.h"

int main(int argc, char **argv)
{
	const struct timespec nap = {.tv_nsec = 20000000};
	struct thmq_env_opts opts = {.size = sizeof(opts), .core_count = 1, .pool_bytes = 64u << 20, .policy = THMQ_POLICY_POLL};
	static struct thmq_env *env; /* what is left open is not lost */
	void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
	int (*open_env)(struct thmq_env **, const struct thmq_env_opts *);
	int rc;

	if (!library) {
		fprintf(stderr, "unload_test FILE: %s\n", argc > 1 ? dlerror() : "which library?");
		return 1;
	}
	*(void **)&open_env = dlsym(library, "thmq_env_open");
	if (!open_env || (rc = open_env(&env, &opts)) != 0) {
		fprintf(stderr, "open an environment: %d\n", open_env ? rc : 0);
		return 1;
	}
	if (dlclose(library)) {
		fprintf(stderr, "dlclose: %s\n", dlerror());
		return 1;
	}
	for (int i = 0; i < 10; i++) /* its thread runs meanwhile */
		nanosleep(&nap, NULL);
	return 0;
}
