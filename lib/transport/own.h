/* SPDX-License-Identifier: Apache-2.0 */
/* own.h - transports that were registered by whoever uses the library: schemes whose descriptors it makes, and may move bytes by. */
#ifndef THMQI_TRANSPORT_OWN_H
#define THMQI_TRANSPORT_OWN_H

#include <thundermq/transport.h>

struct thmqi_transport;

/* The one of @url's scheme, or NULL. */
const struct thmq_transport *thmqi_own_of(const struct thmqi_transport *t, const char *url);
/* Of one, or of sockets: NULL. */
void thmqi_own_close(const struct thmq_transport *own, int fd);
/* Makes what was given fit to be watched. 0, or an error. */
int thmqi_own_ready(int fd);
void thmqi_own_fini(struct thmqi_transport *t);

#endif
