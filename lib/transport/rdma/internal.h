/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of this room share. */
#ifndef THMQI_RDMA_INTERNAL_H
#define THMQI_RDMA_INTERNAL_H

#include "rdma/calls.h"
#include "rdma/rdma.h"

struct thmqi_rdma_device {
	const struct thmqi_verbs *verbs;
	struct thmqi_verbs loaded; /* where these are the real ones */
	struct ibv_context *context;
	struct thmqi_rdma_info info;
	_Atomic uint32_t domains; /* open on it */
};

#endif
