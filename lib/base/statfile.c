/* SPDX-License-Identifier: Apache-2.0 */
/* statfile.c - a file of statistics: made, written by rows, and checked by whoever reads it. statfile.h says what it is. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file_limit.h"
#include "base/statfile.h"

#define PATH_BYTES 4200u

/* ------------------------------------------------------------------- layout */

static uint32_t row_bytes(const struct thmqi_stat_spec *s)
{
	return (uint32_t)sizeof(struct thmqi_stat_row) + THMQI_ALIGN_UP(s->values_bytes, 8u) + 8;
}

static void copy_text(char *to, size_t size, const char *from)
{
	size_t len = from ? strnlen(from, size - 1) : 0;

	memcpy(to, from ? from : "", len);
	memset(to + len, 0, size - len);
}

static void put_columns(uint8_t *image, const struct thmqi_stat_table *t, const struct thmqi_stat_spec *s)
{
	uint32_t i;

	for (i = 0; i < s->column_count; i++) {
		struct thmqi_stat_column *c = (struct thmqi_stat_column *)(image + t->columns_at) + i;

		*c = s->columns[i];
		c->at += (uint32_t)sizeof(struct thmqi_stat_row);
	}
}

static uint32_t schema_crc(const uint8_t *image, uint64_t bytes)
{
	struct thmqi_stat_header h;
	uint32_t crc;

	memcpy(&h, image, sizeof(h));
	h.schema_crc = 0;
	h.closed_ns = 0;
	crc = thmqi_crc32c(0, &h, sizeof(h));
	return thmqi_crc32c(crc, image + sizeof(h), bytes - sizeof(h));
}

/* Header, tables, columns, then the rows of each table. */
static int lay_out(struct thmqi_statfile *f, const struct thmqi_stat_header *header,
		   const struct thmqi_stat_spec *specs, uint32_t count)
{
	uint64_t columns_at = sizeof(*header) + count * sizeof(struct thmqi_stat_table), rows_at = columns_at;
	struct thmqi_stat_header *h;
	struct thmqi_stat_table *t;
	uint32_t i;

	for (i = 0; i < count; i++)
		rows_at += specs[i].column_count * sizeof(struct thmqi_stat_column);
	f->bytes = rows_at;
	for (i = 0; i < count; i++)
		f->bytes += (uint64_t)specs[i].row_count * row_bytes(&specs[i]);
	f->image = f->bytes <= THMQI_STAT_BYTES_MAX ? calloc(1, f->bytes) : NULL;
	if (!f->image)
		return -ENOMEM;
	f->table_count = count;
	h = (struct thmqi_stat_header *)f->image;
	*h = *header;
	memcpy(h->magic, THMQI_STAT_MAGIC, sizeof(h->magic));
	h->version = THMQI_STAT_VERSION;
	h->header_bytes = sizeof(*h);
	h->file_bytes = f->bytes;
	h->tables_at = sizeof(*h);
	h->table_count = count;
	h->table_bytes = sizeof(*t);
	h->schema_bytes = rows_at;
	copy_text(h->library, sizeof(h->library), thmq_version());
	for (i = 0, t = (struct thmqi_stat_table *)(h + 1); i < count; i++, t++) {
		copy_text(t->name, sizeof(t->name), specs[i].name);
		copy_text(t->help, sizeof(t->help), specs[i].help);
		t->columns_at = columns_at;
		t->rows_at = rows_at;
		t->column_count = specs[i].column_count;
		t->column_bytes = sizeof(struct thmqi_stat_column);
		t->row_count = specs[i].row_count;
		t->row_bytes = row_bytes(&specs[i]);
		put_columns(f->image, t, &specs[i]);
		columns_at += t->column_count * sizeof(struct thmqi_stat_column);
		rows_at += (uint64_t)t->row_count * t->row_bytes;
	}
	h->schema_crc = schema_crc(f->image, h->schema_bytes);
	return 0;
}

/* ------------------------------------------------------------------- writer */

static int write_pieces(int fd, const uint8_t *from, uint64_t at, uint64_t bytes)
{
	ssize_t n;

	while (bytes) {
		n = pwrite(fd, from, bytes, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENOSPC;
		from += n;
		at += (uint64_t)n;
		bytes -= (uint64_t)n;
	}
	return 0;
}

static int write_all(int fd, const uint8_t *from, uint64_t at, uint64_t bytes)
{
	sigset_t old;

	thmqi_file_limit_hold(&old);
	return thmqi_file_limit_let_go(&old, write_pieces(fd, from, at, bytes));
}

/* A name that was mistyped is not to cost somebody his file. After a power cut there may be zeros in ours. */
static bool is_ours(const char *path)
{
	static const char zeros[sizeof(((struct thmqi_stat_header *)0)->magic)];
	char magic[sizeof(((struct thmqi_stat_header *)0)->magic)];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	bool is = fd >= 0 && pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
		  (memcmp(magic, THMQI_STAT_MAGIC, sizeof(magic)) == 0 || memcmp(magic, zeros, sizeof(magic)) == 0);

	if (fd >= 0)
		close(fd);
	return is;
}

/* Whole before it has its name: nobody finds half of it, and who reads the one before is not disturbed. */
static int make_file(struct thmqi_statfile *f, const char *path)
{
	char temporary[PATH_BYTES];
	const char *slash = strrchr(path, '/');
	size_t dir = slash ? (size_t)(slash + 1 - path) : 0;
	struct stat st;
	int rc;

	if (strlen(path) + 8 > sizeof(temporary))
		return -ENAMETOOLONG;
	if (lstat(path, &st) == 0 && (!S_ISREG(st.st_mode) || (st.st_size && !is_ours(path))))
		return -EEXIST;
	snprintf(temporary, sizeof(temporary), "%.*s.%s.new", (int)dir, path, path + dir);
	if (unlink(temporary) != 0 && errno != ENOENT)
		return -errno;
	f->fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (f->fd < 0)
		return -errno;
	rc = write_all(f->fd, f->image, 0, f->bytes);
	if (!rc && rename(temporary, path) != 0)
		rc = -errno;
	if (rc)
		unlink(temporary);
	return rc;
}

int thmqi_statfile_open(struct thmqi_statfile *f, const char *path, const struct thmqi_stat_header *header,
			const struct thmqi_stat_spec *specs, uint32_t count)
{
	int rc;

	memset(f, 0, sizeof(*f));
	f->fd = -1;
	rc = lay_out(f, header, specs, count);
	if (!rc)
		rc = make_file(f, path);
	if (rc)
		thmqi_statfile_close(f, 0);
	return rc;
}

static const struct thmqi_stat_table *table_of(const struct thmqi_statfile *f, uint32_t table)
{
	return thmqi_stat_table_at(f->image, table);
}

struct thmqi_stat_row *thmqi_statfile_row(const struct thmqi_statfile *f, uint32_t table, uint32_t row)
{
	return (struct thmqi_stat_row *)thmqi_stat_row_at(f->image, table_of(f, table), row);
}

void thmqi_statfile_put(const struct thmqi_statfile *f, uint32_t table, uint32_t first, uint32_t count, uint64_t wall_ns)
{
	const struct thmqi_stat_table *t = table_of(f, table);
	uint64_t at = t->rows_at + (uint64_t)first * t->row_bytes;
	struct thmqi_stat_row *row;
	uint32_t i;

	if (f->fd < 0 || !count)
		return;
	for (i = 0; i < count; i++) {
		row = thmqi_statfile_row(f, table, first + i);
		row->seq++;
		row->updated_ns = wall_ns;
		memcpy((uint8_t *)row + t->row_bytes - 8, &row->seq, 8);
	}
	write_all(f->fd, f->image + at, at, (uint64_t)count * t->row_bytes);
}

void thmqi_statfile_close(struct thmqi_statfile *f, uint64_t wall_ns)
{
	if (f->fd >= 0 && wall_ns)
		write_all(f->fd, (const uint8_t *)&wall_ns, offsetof(struct thmqi_stat_header, closed_ns), sizeof(wall_ns));
	if (f->fd >= 0)
		close(f->fd);
	free(f->image);
	f->image = NULL;
	f->fd = -1;
}

/* ------------------------------------------------------------------- reader */

static bool within(uint64_t at, uint64_t count, uint64_t each, uint64_t bytes)
{
	return at % 8 == 0 && each % 8 == 0 && at <= bytes && (!count || each <= (bytes - at) / count);
}

/* a-z, 0-9 and _: a name of a metric as it is. */
static bool is_name(const char *name, size_t size)
{
	size_t i;

	for (i = 0; i < size && name[i]; i++)
		if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9' && i) && name[i] != '_')
			return false;
	return i > 0 && i < size;
}

/* One line, that ends. */
static bool is_line(const char *text, size_t size)
{
	size_t i;

	for (i = 0; i < size && text[i]; i++)
		if (text[i] < ' ' || text[i] > '~')
			return false;
	return i < size;
}

static bool column_ok(const struct thmqi_stat_column *c, uint32_t bytes)
{
	uint64_t words = c->kind == THMQI_STAT_HISTOGRAM ? 2 + (uint64_t)c->count : 1;

	if (!is_name(c->name, sizeof(c->name)) || !is_line(c->help, sizeof(c->help)) || c->unit > THMQI_STAT_NS)
		return false;
	if (c->kind < THMQI_STAT_COUNTER || c->kind > THMQI_STAT_HISTOGRAM || c->at < sizeof(struct thmqi_stat_row))
		return false;
	if (c->kind == THMQI_STAT_HISTOGRAM &&
	    (c->bits > 8 || c->count < 2u << c->bits || c->count > (64u - c->bits) << c->bits))
		return false;
	return within(c->at, words, 8, bytes - 8);
}

static bool table_ok(const uint8_t *image, uint64_t schema, uint64_t bytes, const struct thmqi_stat_table *t)
{
	uint32_t i;

	if (!is_name(t->name, sizeof(t->name)) || !is_line(t->help, sizeof(t->help)) ||
	    t->column_count > THMQI_STAT_COLUMNS_MAX || t->column_bytes < sizeof(struct thmqi_stat_column) ||
	    t->row_bytes < sizeof(struct thmqi_stat_row) + 8)
		return false;
	if (!within(t->columns_at, t->column_count, t->column_bytes, schema) ||
	    !within(t->rows_at, t->row_count, t->row_bytes, bytes))
		return false;
	for (i = 0; i < t->column_count; i++)
		if (!column_ok(thmqi_stat_column_at(image, t, i), t->row_bytes))
			return false;
	return true;
}

int thmqi_stat_check(const uint8_t *image, uint64_t bytes)
{
	const struct thmqi_stat_header *h = (const struct thmqi_stat_header *)image;
	uint32_t i;

	if (bytes < sizeof(*h) || memcmp(h->magic, THMQI_STAT_MAGIC, sizeof(h->magic)) != 0)
		return -EPROTO;
	if (h->version != THMQI_STAT_VERSION)
		return -THMQ_EVERSION;
	if (h->file_bytes != bytes || h->header_bytes < sizeof(*h) || h->schema_bytes < sizeof(*h) || h->schema_bytes > bytes ||
	    schema_crc(image, h->schema_bytes) != h->schema_crc)
		return -THMQ_ECORRUPT;
	/* a checksum is no proof: it can be made */
	if (h->table_count > THMQI_STAT_TABLES_MAX || h->table_bytes < sizeof(struct thmqi_stat_table) ||
	    !within(h->tables_at, h->table_count, h->table_bytes, h->schema_bytes) ||
	    !is_line(h->library, sizeof(h->library)) || !is_line(h->name, sizeof(h->name)))
		return -THMQ_ECORRUPT;
	for (i = 0; i < h->table_count; i++)
		if (!table_ok(image, h->schema_bytes, bytes, thmqi_stat_table_at(image, i)))
			return -THMQ_ECORRUPT;
	return 0;
}

const struct thmqi_stat_table *thmqi_stat_table_at(const uint8_t *image, uint32_t table)
{
	const struct thmqi_stat_header *h = (const struct thmqi_stat_header *)image;

	return (const struct thmqi_stat_table *)(image + h->tables_at + (uint64_t)table * h->table_bytes);
}

const struct thmqi_stat_column *thmqi_stat_column_at(const uint8_t *image, const struct thmqi_stat_table *t, uint32_t column)
{
	return (const struct thmqi_stat_column *)(image + t->columns_at + (uint64_t)column * t->column_bytes);
}

const struct thmqi_stat_row *thmqi_stat_row_at(const uint8_t *image, const struct thmqi_stat_table *t, uint32_t row)
{
	return (const struct thmqi_stat_row *)(image + t->rows_at + (uint64_t)row * t->row_bytes);
}

uint64_t thmqi_stat_end_of(const struct thmqi_stat_table *t, const struct thmqi_stat_row *row)
{
	uint64_t end;

	memcpy(&end, (const uint8_t *)row + t->row_bytes - 8, 8);
	return end;
}
