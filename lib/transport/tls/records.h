/* SPDX-License-Identifier: Apache-2.0 */
/* records.h - sizes that session.c and records.c agree on. */
#ifndef THMQI_TLS_RECORDS_H
#define THMQI_TLS_RECORDS_H

#define TLS_RECORD_BYTES 16384u /* of plain text, at most (RFC 8446, 5.1) */
#define TLS_RECORD_ROOM                                                                            \
	(TLS_RECORD_BYTES + 512u) /* header, tag, and the answer to a change of keys */
#define TLS_OUT_BYTES (8u * TLS_RECORD_ROOM)
#define TLS_IN_BYTES (128u << 10)
#define TLS_CALL_BYTES (512u << 10) /* encrypted or decrypted in one call */

#endif
