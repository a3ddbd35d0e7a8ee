/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.c - OpenSSL's libraries, where they are installed. They are no dependency of the library: who uses no TLS neither needs
 * nor maps their 6 MB. Once loaded they stay: they have state of their own that does not survive an unloading.
 */
#include <dlfcn.h>

#include "openssl.h"

#define SYMBOL(name) {#name, offsetof(struct thmqi_openssl, name)},

static const struct {
	const char *name;
	size_t place; /* in struct thmqi_openssl */
} symbols[] = {THMQI_OPENSSL_CALLS(SYMBOL)};

_Static_assert(sizeof(struct thmqi_openssl) == THMQI_ARRAY_COUNT(symbols) * sizeof(void *),
	       "every call is loaded");

int thmqi_openssl_load(struct thmqi_openssl *ret_openssl)
{
	/* libcrypto comes with it, and is searched behind it */
	void *library = dlopen("libssl.so.3", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE), *call = NULL;
	size_t i;

	if (!library)
		return thmqi_fail(-EPROTONOSUPPORT,
				  "tls: OpenSSL 3 is not installed (Debian: libssl3)");
	for (i = 0; i < THMQI_ARRAY_COUNT(symbols); i++) {
		call = dlsym(library, symbols[i].name);
		if (!call)
			break;
		memcpy((char *)ret_openssl + symbols[i].place, &call, sizeof(call));
	}
	dlclose(library);
	if (i < THMQI_ARRAY_COUNT(symbols))
		return thmqi_fail(-EPROTONOSUPPORT, "tls: libssl.so.3 has no %s", symbols[i].name);
	/* no clean-up at exit(): cores may still be at work then */
	if (ret_openssl->OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL) != 1)
		return thmqi_fail(-EPROTONOSUPPORT, "tls: OpenSSL does not begin to work: is its "
						    "configuration file right?");
	return 0;
}
