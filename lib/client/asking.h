/* SPDX-License-Identifier: Apache-2.0 */
/* asking.h - what who asks (request.c) and who answers (reply.c) share. */
#ifndef THMQI_CLIENT_ASKING_H
#define THMQI_CLIENT_ASKING_H

#define ASKING_HEADERS_MAX 64u /* of the app's own, in a request or an answer */

#endif
