/* SPDX-License-Identifier: Apache-2.0 */
/* certs.h - keys and certificates for tests of TLS, made anew each time, so that none of them ever expires by itself. */
#ifndef CERTS_H
#define CERTS_H

#include <stdbool.h>
#include <thundermq/thundermq.h>

/*
 * Into the folder @dir, as NAME.pem and NAME.key:
 * ca, other-ca         who signs; other-ca is not ours
 * server               for localhost, 127.0.0.1 and ::1;  client  for the name client
 * server-elsewhere     for elsewhere.example;  client-stranger, server-stranger  signed by other-ca
 * client-expired, client-early, server-expired, server-early  whose time is over, or has not come
 * node, node-stranger  as server and server-stranger, and a client too: for a broker that others call
 * client-revoked       is in crl.pem;  client-wrong-purpose  may only be a server
 * And keys.psk: the pre-shared key CERTS_PSK of the identity "client".
 */
void certs_make(const char *dir);

#define CERTS_PSK "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

/* "dir/name", valid until the thread has asked for 256 more. */
const char *certs_path(const char *dir, const char *name);

#endif
