/* SPDX-License-Identifier: Apache-2.0 */
/* mailbox.c - the public face of messages between cores: checks, then calls down. */
#include <thundermq/reactor.h>

#include "api/api.h"

_Static_assert(sizeof(struct thmq_mail) == 56, "with the turn it is a cache line");
_Static_assert(sizeof(struct thmq_mailbox_opts) == 32 &&
		       offsetof(struct thmq_mailbox_opts, ctx) == 24,
	       "public layout");

void (thmq_mailbox_opts_init)(struct thmq_mailbox_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

int thmq_mailbox_open(struct thmq_core *from, struct thmq_core *to,
		      const struct thmq_mailbox_opts *opts, struct thmq_mailbox **ret_mailbox)
{
	struct thmq_mailbox_opts o;
	int rc;

	if (!from || !to || !ret_mailbox)
		return thmqi_fail(-EINVAL, "a mailbox needs two cores and a place for its handle");
	if (from->env != to->env)
		return thmqi_fail(-EINVAL, "a mailbox joins cores of one environment");
	if (!thmqi_core_is_mine(from))
		return thmqi_fail(
			-EPERM,
			"a mailbox is opened by the thread that drives the core it comes from");
	rc = thmqi_opts_copy(&o, sizeof(o), opts);
	if (rc)
		return thmqi_fail(rc, "mailbox: options: %s", thmqi_opts_why(rc));
	if (o.flags || o.reserved)
		return thmqi_fail(-EINVAL, "mailbox: unknown flags %#x", o.flags);
	if (o.depth == 1 || o.depth > THMQ_MAILBOX_DEPTH_MAX)
		return thmqi_fail(-EINVAL, "mailbox: depth is 2 to %u messages",
				  THMQ_MAILBOX_DEPTH_MAX);
	rc = thmqi_mailbox_open(from, to, &o, ret_mailbox);
	return rc ? thmqi_fail(rc, "no memory for a mailbox") : 0;
}

int thmq_mailbox_send(struct thmq_mailbox *mailbox, const struct thmq_mail *mail)
{
	if (thmqi_unlikely(!mailbox || !mail || !mail->run))
		return -EINVAL;
	if (thmqi_unlikely(!thmqi_core_is_mine(thmqi_mailbox_sender(mailbox))))
		return -EPERM;
	return thmqi_mailbox_send(mailbox, mail);
}

int thmq_mailbox_close(struct thmq_mailbox *mailbox)
{
	if (!mailbox)
		return 0;
	if (!thmqi_core_is_mine(thmqi_mailbox_sender(mailbox)))
		return thmqi_fail(
			-EPERM,
			"a mailbox is closed by the thread that drives the core it comes from");
	thmqi_mailbox_close(mailbox);
	return 0;
}
