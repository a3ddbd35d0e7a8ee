/* SPDX-License-Identifier: Apache-2.0 */
/* none.c - in place of all of this folder where the library is built without rdma-core's headers. */
#include "rdma/rdma.h"

static int none(void)
{
	return thmqi_fail(-ENODEV, "rdma: this library was built without RDMA (meson option rdma)");
}

int thmqi_rdma_list(const struct thmqi_verbs *verbs, struct thmqi_rdma_info *infos, uint32_t max)
{
	return none();
}

int thmqi_rdma_open(const struct thmqi_verbs *verbs, const char *name,
		    struct thmqi_rdma_device **ret_device)
{
	return none();
}

int thmqi_rdma_close(struct thmqi_rdma_device *d)
{
	return -EINVAL;
}

const struct thmqi_rdma_info *thmqi_rdma_info(const struct thmqi_rdma_device *d)
{
	return NULL;
}

struct ibv_context *thmqi_rdma_context(struct thmqi_rdma_device *d)
{
	return NULL;
}

int thmqi_rdma_fd(const struct thmqi_rdma_device *d)
{
	return -ENODEV;
}

int thmqi_rdma_next(struct thmqi_rdma_device *d, struct thmqi_rdma_event *ret_event)
{
	return -ENODEV;
}

int thmqi_rdma_domain_open(struct thmqi_rdma_device *d, struct thmq_slabs *slabs,
			   const struct thmqi_rdma_domain_opts *opts,
			   struct thmqi_rdma_domain **ret_domain)
{
	return none();
}

int thmqi_rdma_domain_close(struct thmqi_rdma_domain *d)
{
	return -EINVAL;
}

int thmqi_rdma_find_keys(const struct thmqi_rdma_domain *d, const void *address,
			 struct thmqi_rdma_keys *ret_keys)
{
	return -ENOENT;
}

void thmqi_rdma_domain_stats(struct thmqi_rdma_domain *d, struct thmqi_rdma_domain_stats *ret)
{
	memset(ret, 0, sizeof(*ret));
}

struct ibv_pd *thmqi_rdma_domain_pd(struct thmqi_rdma_domain *d)
{
	return NULL;
}

bool thmqi_rdma_is_device(const struct thmqi_rdma_device *d, const struct ibv_context *other)
{
	return false;
}

int thmqi_rdma_counters(struct thmqi_transport *t, struct thmqi_rdma_counters *ret)
{
	return -ENODEV;
}

static int check_none(const char *url)
{
	return 0; /* it is understood, and refused when it is used */
}

static int listen_none(struct thmqi_listener *l, const char *url,
		       const struct thmqi_listen_opts *opts, void **ret_door)
{
	return none();
}

static int connect_none(struct thmqi_transport *t, const char *url, uint32_t shard,
			const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
			struct thmqi_link **ret_link)
{
	return none();
}

const struct thmqi_medium thmqi_medium_rdma = {
	.scheme = "rdma",
	.check = check_none,
	.listen = listen_none,
	.connect = connect_none,
};
