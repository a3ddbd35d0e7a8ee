/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.c - libibverbs and librdmacm, where they are installed. They are no dependency of the library: who has no RDMA needs
 * nothing of them. Each symbol is asked for in the version that its prototype in the headers belongs to, as the linker
 * would. Once loaded they stay: they and their drivers have state of their own that does not survive an unloading.
 */
#include <dlfcn.h>

#include "internal.h"

struct symbol {
	const char *name;
	const char *version;
	size_t place; /* in the table */
};

#define VERBS(name, version)                                                                       \
	{                                                                                          \
		"ibv_" #name, "IBVERBS_" version, offsetof(struct thmqi_verbs, name)               \
	}
#define CM(name, version)                                                                          \
	{                                                                                          \
		"rdma_" #name, "RDMACM_" version, offsetof(struct thmqi_cm, name)                  \
	}

static const struct symbol verbs[] = {
	VERBS(get_device_list, "1.1"),
	VERBS(free_device_list, "1.1"),
	VERBS(get_device_name, "1.1"),
	VERBS(open_device, "1.1"),
	VERBS(close_device, "1.1"),
	VERBS(query_device, "1.1"),
	VERBS(query_port, "1.1"),
	VERBS(get_async_event, "1.1"),
	VERBS(ack_async_event, "1.1"),
	VERBS(alloc_pd, "1.1"),
	VERBS(dealloc_pd, "1.1"),
	VERBS(reg_mr, "1.1"),
	VERBS(dereg_mr, "1.1"),
	VERBS(create_comp_channel, "1.0"),
	VERBS(destroy_comp_channel, "1.0"),
	VERBS(create_cq, "1.1"),
	VERBS(destroy_cq, "1.1"),
	VERBS(get_cq_event, "1.1"),
	VERBS(ack_cq_events, "1.1"),
	VERBS(create_srq, "1.1"),
	VERBS(destroy_srq, "1.1"),
	VERBS(create_qp, "1.1"),
	VERBS(modify_qp, "1.1"),
	VERBS(destroy_qp, "1.1"),
};
_Static_assert(sizeof(struct thmqi_verbs) == THMQI_ARRAY_COUNT(verbs) * sizeof(void *),
	       "every call is loaded");

static const struct symbol cm[] = {
	CM(create_event_channel, "1.0"),
	CM(destroy_event_channel, "1.0"),
	CM(get_cm_event, "1.0"),
	CM(ack_cm_event, "1.0"),
	CM(create_id, "1.0"),
	CM(destroy_id, "1.0"),
	CM(migrate_id, "1.0"),
	CM(set_option, "1.0"),
	CM(bind_addr, "1.0"),
	CM(listen, "1.0"),
	CM(get_src_port, "1.0"),
	CM(resolve_addr, "1.0"),
	CM(resolve_route, "1.0"),
	CM(init_qp_attr, "1.2"),
	CM(connect, "1.0"),
	CM(establish, "1.2"),
	CM(accept, "1.0"),
	CM(reject, "1.0"),
	CM(disconnect, "1.0"),
};
_Static_assert(sizeof(struct thmqi_cm) == THMQI_ARRAY_COUNT(cm) * sizeof(void *),
	       "every call is loaded");

static int load(const char *name, const char *package, const struct symbol *symbols, size_t count,
		void *table)
{
	void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	void *call;
	size_t i;

	if (!library)
		return thmqi_fail(-ENODEV, "rdma: %s is not installed (Debian: %s)", name, package);
	for (i = 0; i < count; i++) {
		call = dlvsym(library, symbols[i].name, symbols[i].version);
		if (!call)
			break;
		memcpy((char *)table + symbols[i].place, &call, sizeof(call));
	}
	dlclose(library);
	return i == count ? 0 : thmqi_fail(-ENODEV, "rdma: %s has no %s", name, symbols[i].name);
}

int thmqi_verbs_load(struct thmqi_verbs *ret_verbs)
{
	return load("libibverbs.so.1", "libibverbs1 and ibverbs-providers", verbs,
		    THMQI_ARRAY_COUNT(verbs), ret_verbs);
}

int thmqi_cm_load(struct thmqi_cm *ret_cm)
{
	return load("librdmacm.so.1", "librdmacm1", cm, THMQI_ARRAY_COUNT(cm), ret_cm);
}
