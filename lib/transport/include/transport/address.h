/* SPDX-License-Identifier: Apache-2.0 */
/* address.h - tcp://host:port as addresses of sockets, for those who make connections that are no links. */
#ifndef THMQI_TRANSPORT_ADDRESS_H
#define THMQI_TRANSPORT_ADDRESS_H

#include <sys/socket.h>

#include "base/base.h"

struct thmqi_address {
	struct sockaddr_storage addr;
	socklen_t len;
};

/* tcp:// or tls://. 0; -EINVAL, with a text. */
int thmqi_address_check(const char *url);
/*
 * @passive: to listen at. A name is looked up, which may block; an address is not. Return: 0; -EINVAL; -EHOSTUNREACH there is no such host;
 * -ENOMEM; each with a text.
 */
int thmqi_address_resolve(const char *url, bool passive, struct thmqi_address *ret, uint32_t max,
			  uint32_t *ret_count);
/*
 * A socket that listens at @url, non-blocking, and where it does: port 0 has become a real one. Return: the descriptor; an error, with a
 * text.
 */
int thmqi_address_listen(const char *url, char *ret_url, size_t size);
/* The host of @url, as a certificate would name it. False: it is too long. */
bool thmqi_address_host(const char *url, char *ret_host, size_t size);

#endif
