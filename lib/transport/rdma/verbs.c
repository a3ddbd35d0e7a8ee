/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs.c - RDMA devices: which there are, one of them opened, and what it says of itself (asynchronous events). Knows
 * nothing of memory (registrar.c) nor of connections.
 */
#include <fcntl.h>
#include <stdio.h>

#include "internal.h"

static int none(void)
{
	return thmqi_fail(
		-ENODEV,
		"rdma: there is no RDMA device (rdma link; Soft-RoCE makes one of a network "
		"device: rdma link add rxe0 type rxe netdev ...)");
}

/* The calls, and what devices there are. */
static int look(const struct thmqi_verbs **verbs, struct thmqi_verbs *loaded,
		struct ibv_device ***ret_list, int *ret_count)
{
	int rc = 0;

	if (!*verbs) {
		rc = thmqi_verbs_load(loaded);
		*verbs = loaded;
	}
	if (rc)
		return rc;
	*ret_list = (*verbs)->get_device_list(ret_count);
	if (!*ret_list)
		return errno == ENOMEM ? thmqi_fail(-ENOMEM, "rdma: no memory") : none();
	if (*ret_count > 0)
		return 0;
	(*verbs)->free_device_list(*ret_list);
	return none();
}

static uint64_t active_ports(const struct thmqi_verbs *v, struct ibv_context *context,
			     uint32_t ports)
{
	uint64_t active = 0;
	uint32_t i;

	for (i = 0; i < THMQI_MIN(ports, 64u); i++) {
		/* the library's call fills an older struct that begins alike */
		struct ibv_port_attr port = {0};

		if (v->query_port(context, (uint8_t)(i + 1),
				  (struct _compat_ibv_port_attr *)&port) == 0 &&
		    port.state == IBV_PORT_ACTIVE)
			active |= 1ull << i;
	}
	return active;
}

static int describe(const struct thmqi_verbs *v, struct ibv_context *context,
		    struct thmqi_rdma_info *ret)
{
	struct ibv_device_attr attr = {0};
	int rc = v->query_device(context, &attr);

	if (rc)
		return -rc;
	memset(ret, 0, sizeof(*ret));
	snprintf(ret->name, sizeof(ret->name), "%s", v->get_device_name(context->device));
	ret->ports = attr.phys_port_cnt;
	ret->is_iwarp = context->device->transport_type == IBV_TRANSPORT_IWARP;
	ret->active_ports = active_ports(v, context, ret->ports);
	ret->region_max = attr.max_mr_size;
	ret->reads_max = (uint32_t)THMQI_MAX(attr.max_qp_rd_atom, 0);
	ret->sges_max = (uint32_t)THMQI_MAX(attr.max_sge, 0);
	return 0;
}

int thmqi_rdma_list(const struct thmqi_verbs *verbs, struct thmqi_rdma_info *infos, uint32_t max)
{
	struct thmqi_verbs loaded;
	struct ibv_device **list;
	struct ibv_context *context;
	int rc, i, count;

	rc = look(&verbs, &loaded, &list, &count);
	if (rc)
		return rc;
	for (i = 0; i < count && (uint32_t)i < max; i++) {
		memset(&infos[i], 0, sizeof(infos[i]));
		snprintf(infos[i].name, sizeof(infos[i].name), "%s",
			 verbs->get_device_name(list[i]));
		context = verbs->open_device(
			list[i]); /* one that cannot be opened has its name only */
		if (!context)
			continue;
		describe(verbs, context, &infos[i]);
		verbs->close_device(context);
	}
	verbs->free_device_list(list);
	return count;
}

/* Of one device; its events are to be had without blocking. */
static int try_open(struct thmqi_rdma_device *d, struct ibv_device *device)
{
	int rc, flags;

	d->context = d->verbs->open_device(device);
	if (!d->context)
		return errno ? -errno : -EIO;
	rc = describe(d->verbs, d->context, &d->info);
	if (!rc) {
		flags = fcntl(d->context->async_fd, F_GETFL);
		if (flags < 0 || fcntl(d->context->async_fd, F_SETFL, flags | O_NONBLOCK) < 0)
			rc = -errno;
	}
	if (rc) {
		d->verbs->close_device(d->context);
		d->context = NULL;
	}
	return rc;
}

/* The one of that name, or the first that passes. */
static int open_any(struct thmqi_rdma_device *d, struct ibv_device **list, int count,
		    const char *name, bool active)
{
	int i, rc, result = -ENODEV;

	for (i = 0; i < count; i++) {
		if (name && strcmp(d->verbs->get_device_name(list[i]), name))
			continue;
		rc = try_open(d, list[i]);
		if (!rc && active && !d->info.active_ports) {
			d->verbs->close_device(d->context);
			rc = -ENODEV;
		}
		if (!rc)
			return 0;
		result = rc;
	}
	return result;
}

int thmqi_rdma_open(const struct thmqi_verbs *verbs, const char *name,
		    struct thmqi_rdma_device **ret_device)
{
	struct thmqi_rdma_device *d;
	struct ibv_device **list;
	int rc, count;

	d = calloc(1, sizeof(*d));
	if (!d)
		return thmqi_fail(-ENOMEM, "rdma: no memory");
	d->verbs = verbs;
	rc = look(&d->verbs, &d->loaded, &list, &count);
	if (rc) {
		free(d);
		return rc;
	}
	rc = open_any(d, list, count, name, !name);
	if (rc && !name)
		rc = open_any(d, list, count, name, false);
	d->verbs->free_device_list(list);
	if (rc) {
		free(d);
		return rc == -ENODEV ? thmqi_fail(rc, "rdma: there is no device %s (rdma link)",
						  name ? name : "")
				     : thmqi_fail(rc, "rdma: open %s: %s", name ? name : "a device",
						  thmq_strerror(rc));
	}
	*ret_device = d;
	return 0;
}

int thmqi_rdma_close(struct thmqi_rdma_device *d)
{
	if (!d)
		return -EINVAL;
	if (atomic_load_explicit(&d->domains, memory_order_acquire))
		return thmqi_fail(-EBUSY, "rdma: a protection domain is open on %s", d->info.name);
	d->verbs->close_device(d->context);
	free(d);
	return 0;
}

const struct thmqi_rdma_info *thmqi_rdma_info(const struct thmqi_rdma_device *d)
{
	return &d->info;
}

struct ibv_context *thmqi_rdma_context(struct thmqi_rdma_device *d)
{
	return d->context;
}

/* -------------------------------------------------------------------- events */

int thmqi_rdma_fd(const struct thmqi_rdma_device *d)
{
	return d->context->async_fd;
}

static uint32_t kind_of(enum ibv_event_type type)
{
	switch (type) {
	case IBV_EVENT_DEVICE_FATAL:
		return THMQI_RDMA_GONE;
	case IBV_EVENT_PORT_ACTIVE:
		return THMQI_RDMA_PORT_UP;
	case IBV_EVENT_PORT_ERR:
		return THMQI_RDMA_PORT_DOWN;
	case IBV_EVENT_GID_CHANGE:
	case IBV_EVENT_LID_CHANGE:
	case IBV_EVENT_PKEY_CHANGE:
		return THMQI_RDMA_ADDRESS;
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		return THMQI_RDMA_QP_FAILED;
	case IBV_EVENT_QP_LAST_WQE_REACHED:
		return THMQI_RDMA_QP_LAST;
	case IBV_EVENT_CQ_ERR:
		return THMQI_RDMA_CQ_FAILED;
	case IBV_EVENT_SRQ_LIMIT_REACHED:
		return THMQI_RDMA_SRQ_LOW;
	case IBV_EVENT_SRQ_ERR:
		return THMQI_RDMA_SRQ_FAILED;
	default:
		return THMQI_RDMA_OTHER;
	}
}

int thmqi_rdma_next(struct thmqi_rdma_device *d, struct thmqi_rdma_event *ret_event)
{
	struct ibv_async_event event;
	struct thmqi_rdma_event e;

	if (d->verbs->get_async_event(d->context, &event))
		return errno == EAGAIN || errno == EINTR ? 0 : errno ? -errno : -EIO;
	e = (struct thmqi_rdma_event){.kind = kind_of(event.event_type)};
	switch (e.kind) {
	case THMQI_RDMA_PORT_UP:
	case THMQI_RDMA_PORT_DOWN:
	case THMQI_RDMA_ADDRESS:
		e.port = (uint32_t)event.element.port_num;
		break;
	case THMQI_RDMA_QP_FAILED:
	case THMQI_RDMA_QP_LAST:
		e.object = event.element.qp;
		break;
	case THMQI_RDMA_CQ_FAILED:
		e.object = event.element.cq;
		break;
	case THMQI_RDMA_SRQ_LOW:
	case THMQI_RDMA_SRQ_FAILED:
		e.object = event.element.srq;
		break;
	default:
		break;
	}
	/* at once: who destroys an object waits for the acknowledgement of its events */
	d->verbs->ack_async_event(&event);
	*ret_event = e;
	return 1;
}

bool thmqi_rdma_is_device(const struct thmqi_rdma_device *d, const struct ibv_context *other)
{
	return strcmp(d->info.name, d->verbs->get_device_name(other->device)) == 0;
}
