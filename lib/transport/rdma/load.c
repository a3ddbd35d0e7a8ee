/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.c - libibverbs, where it is installed. It is no dependency of the library: who has no RDMA needs nothing of it.
 * Each symbol is asked for in the version that its prototype in the headers belongs to, as the linker would. Once loaded
 * it stays: it and its drivers have state of their own that does not survive an unloading.
 */
#include <dlfcn.h>

#include "internal.h"

#define SYMBOL(name)                                                                               \
	{                                                                                          \
		"ibv_" #name, offsetof(struct thmqi_verbs, name)                                   \
	}

static const struct {
	const char *name;
	size_t place; /* in struct thmqi_verbs */
} symbols[] = {
	SYMBOL(get_device_list), SYMBOL(free_device_list), SYMBOL(get_device_name),
	SYMBOL(open_device),     SYMBOL(close_device),     SYMBOL(query_device),
	SYMBOL(query_port),      SYMBOL(get_async_event),  SYMBOL(ack_async_event),
	SYMBOL(alloc_pd),        SYMBOL(dealloc_pd),       SYMBOL(reg_mr),
	SYMBOL(dereg_mr),
};

_Static_assert(sizeof(struct thmqi_verbs) == THMQI_ARRAY_COUNT(symbols) * sizeof(void *),
	       "every call is loaded");

int thmqi_verbs_load(struct thmqi_verbs *ret_verbs)
{
	void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	void *call;
	size_t i;

	if (!library)
		return thmqi_fail(-ENODEV,
				  "rdma: libibverbs is not installed (Debian: libibverbs1 and "
				  "ibverbs-providers)");
	for (i = 0; i < THMQI_ARRAY_COUNT(symbols); i++) {
		call = dlvsym(library, symbols[i].name, "IBVERBS_1.1");
		if (!call)
			break;
		memcpy((char *)ret_verbs + symbols[i].place, &call, sizeof(call));
	}
	dlclose(library);
	return i == THMQI_ARRAY_COUNT(symbols)
		       ? 0
		       : thmqi_fail(-ENODEV, "rdma: libibverbs.so.1 has no %s", symbols[i].name);
}
