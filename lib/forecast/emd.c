/* SPDX-License-Identifier: Apache-2.0 */
/*
 * emd.c - empirical mode decomposition (Huang and others, Proc. R. Soc. A 454, 1998) with the boundary and the stopping
 * rule of Rilling, Flandrin and Goncalves ("On empirical mode decomposition and its algorithms", 2003): subtract the mean
 * of two spline envelopes until it is small nearly everywhere. What is left of a signal after its modes is the residue.
 */
#include "forecast/forecast.h"

/* The stopping rule: |mean| / amplitude above SMALL in at most SHARE of the samples, above LARGE in none. */
#define SMALL 0.05
#define LARGE 0.5
#define SHARE 0.05
#define TINY 1e-10  /* of the signal: what is smaller is the arithmetic's noise */
#define MIRRORED 2u /* extrema of each kind beyond an end */

void thmqi_emd_carve(struct thmqi_emd *e, struct thmqi_carver *c, uint32_t len_max)
{
	/* extrema alternate with at least one sample between two of a kind */
	uint32_t extrema = len_max / 2 + 1, knots = extrema + 2 * MIRRORED;

	memset(e, 0, sizeof(*e));
	e->len_max = len_max;
	e->maxima = thmqi_carve(c, extrema, sizeof(uint32_t));
	e->minima = thmqi_carve(c, extrema, sizeof(uint32_t));
	e->knot_at = thmqi_carve(c, knots, sizeof(int32_t));
	e->knot_y = thmqi_carve(c, knots, sizeof(double));
	e->slope = thmqi_carve(c, knots, sizeof(double));
	e->work = thmqi_carve(c, 3 * (size_t)knots, sizeof(double));
	e->upper = thmqi_carve(c, len_max, sizeof(double));
	e->lower = thmqi_carve(c, len_max, sizeof(double));
	e->mean = thmqi_carve(c, len_max, sizeof(double));
	e->rest = thmqi_carve(c, len_max, sizeof(double));
}

/* ----------------------------------------------------------------- extrema */

/* A plateau is one extremum in its middle, the later one of two; one that touches an end is none. */
void thmqi_emd_extrema(struct thmqi_emd *e, const double *x, uint32_t len)
{
	uint32_t i, first = 0; /* of the samples that equal the present one */
	int before = -1;       /* the last step that was one: 1 up, 0 down, -1 none yet */

	e->maxima_count = e->minima_count = e->zeros = 0;
	if (len)
		e->zeros = x[0] == 0;
	for (i = 1; i < len; i++) {
		double here = x[i], last = x[i - 1];

		/* a run of zeros counts where it begins */
		e->zeros +=
			(here > 0 && last < 0) | (here < 0 && last > 0) | (here == 0 && last != 0);
		if (here == last)
			continue;
		/* of samples numbered from 0 as from 1 the middle is rounded up */
		if (before != (here > last)) {
			if (before == 1)
				e->maxima[e->maxima_count++] = (first + i) / 2;
			else if (before == 0)
				e->minima[e->minima_count++] = (first + i) / 2;
			before = here > last;
		}
		first = i;
	}
}

/* ------------------------------------------------------ knots of envelopes */

/* Which extrema are mirrored about what at one end. Their order is the distance from that end, so that both ends are one
 * case: step +1 and the first extrema, or -1 and the last ones. */
struct end {
	const uint32_t *own,
		*other; /* the nearest of this envelope, and of the other one; go on by step */
	uint32_t own_count, other_count;
	int32_t step;
	uint32_t edge; /* the end sample */
};

static uint32_t nth(const uint32_t *nearest, int32_t step, uint32_t i)
{
	return nearest[(ptrdiff_t)step * (ptrdiff_t)i];
}

/* Does a point that is @from the mirror away lie on the end sample or outside? */
static bool reaches(const struct end *s, uint32_t mirror, uint32_t index)
{
	int32_t image = 2 * (int32_t)mirror - (int32_t)index;

	return s->step > 0 ? image <= (int32_t)s->edge : image >= (int32_t)s->edge;
}

struct mirror {
	uint32_t at;    /* about this sample */
	uint32_t first; /* of the own extrema that are mirrored */
	uint32_t count;
	bool edge; /* the end sample itself is a knot, too */
};

static uint32_t upto(uint32_t first, uint32_t count)
{
	return count > first ? THMQI_MIN(count - first, MIRRORED) : 0;
}

/*
 * The outermost extremum is the mirror, unless the end sample lies beyond the next one of the other kind; then the end
 * sample is, as a knot of that other kind.
 */
static struct mirror choose_mirror(const struct end *s, const double *x, bool upper)
{
	uint32_t own = nth(s->own, s->step, 0), other = nth(s->other, s->step, 0);
	bool own_first = (s->step > 0) == (own < other);
	double edge = upper ? x[s->edge] : -x[s->edge];
	struct mirror m = {.at = s->edge, .count = upto(0, s->own_count)};
	uint32_t own_reach, other_reach;

	if (own_first) { /* a maximum is the outermost: is the end above the first minimum? (of minima turned over) */
		if (edge <= (upper ? x[other] : -x[other]))
			return m; /* the end sample is a knot of the other envelope */
		m.at = own;
		m.first = 1;
	} else {
		if (edge >= (upper ? x[own] : -x[own])) {
			m.edge = true;
			m.count = upto(0, s->own_count) ? 1 : 0;
			return m;
		}
		m.at = other;
	}
	m.count = upto(m.first, s->own_count);
	/* an image that stays within the signal leaves the end open: about the end sample instead, for both envelopes */
	own_reach = m.count ? nth(s->own, s->step, m.first + m.count - 1) : 0;
	other_reach = upto(own_first ? 0 : 1, s->other_count);
	if (!other_reach || !m.count || !reaches(s, m.at, own_reach) ||
	    !reaches(s, m.at, nth(s->other, s->step, (own_first ? 0 : 1) + other_reach - 1)))
		m = (struct mirror){.at = s->edge, .count = upto(0, s->own_count)};
	return m;
}

/* Images, nearest to the mirror first. */
static uint32_t mirrored(const struct end *s, const double *x, bool upper, int32_t *at, double *y)
{
	struct mirror m = choose_mirror(s, x, upper);
	uint32_t n = 0, i, index;

	if (m.edge) {
		at[n] = (int32_t)s->edge;
		y[n++] = x[s->edge];
	}
	for (i = 0; i < m.count; i++) {
		index = nth(s->own, s->step, m.first + i);
		at[n] = 2 * (int32_t)m.at - (int32_t)index;
		y[n++] = x[index];
	}
	return n;
}

uint32_t thmqi_emd_knots(struct thmqi_emd *e, const double *x, uint32_t len, bool upper)
{
	const uint32_t *own = upper ? e->maxima : e->minima, *other = upper ? e->minima : e->maxima;
	uint32_t own_count = upper ? e->maxima_count : e->minima_count;
	uint32_t other_count = upper ? e->minima_count : e->maxima_count;
	struct end left = {own, other, own_count, other_count, 1, 0};
	struct end right = {own, other, own_count, other_count, -1, len - 1};
	int32_t at[MIRRORED];
	double y[MIRRORED];
	uint32_t n = 0, i, extra;

	if (!own_count || !other_count || own_count + other_count < 3)
		return 0;
	right.own += own_count - 1;
	right.other += other_count - 1;
	extra = mirrored(&left, x, upper, at, y);
	for (i = extra; i > 0; i--) {
		e->knot_at[n] = at[i - 1];
		e->knot_y[n++] = y[i - 1];
	}
	for (i = 0; i < own_count; i++) {
		e->knot_at[n] = (int32_t)own[i];
		e->knot_y[n++] = x[own[i]];
	}
	extra = mirrored(&right, x, upper, at, y);
	for (i = 0; i < extra; i++) {
		e->knot_at[n] = at[i];
		e->knot_y[n++] = y[i];
	}
	return n;
}

/* ----------------------------------------------------------------- sifting */

static bool envelope(struct thmqi_emd *e, const double *x, uint32_t len, bool upper, double *values)
{
	uint32_t count = thmqi_emd_knots(e, x, len, upper);

	return count &&
	       thmqi_spline(e->knot_at, e->knot_y, count, e->slope, e->work, len, values) == 0;
}

/* e->mean of the envelopes of @x. Return: sifting is over; then the mean counts for nothing. */
static bool is_sifted(struct thmqi_emd *e, const double *x, uint32_t len)
{
	uint32_t i, small = 0, large = 0, extrema;

	thmqi_emd_extrema(e, x, len);
	extrema = e->maxima_count + e->minima_count;
	if (extrema < 3 || !envelope(e, x, len, true, e->upper) ||
	    !envelope(e, x, len, false, e->lower))
		return true;
	for (i = 0; i < len; i++) {
		double amplitude = fabs(e->upper[i] - e->lower[i]) * 0.5,
		       mean = (e->upper[i] + e->lower[i]) * 0.5;

		e->mean[i] = mean;
		mean = fabs(mean);
		small += mean > SMALL * amplitude;
		large += mean > LARGE * amplitude;
	}
	if ((double)small / len > SHARE || large)
		return false;
	return e->zeros + 1 >= extrema && extrema + 1 >= e->zeros;
}

uint32_t thmqi_emd_mode(struct thmqi_emd *e, const double *x, uint32_t len, uint32_t sift_max,
			double *ret_mode)
{
	uint32_t n = 0, i;

	memcpy(ret_mode, x, len * sizeof(*x));
	while (n < sift_max && !is_sifted(e, ret_mode, len)) {
		for (i = 0; i < len; i++)
			ret_mode[i] -= e->mean[i];
		n++;
	}
	e->sifts += n;
	return n;
}

static double largest(const double *x, uint32_t len)
{
	double most = 0;
	uint32_t i;

	for (i = 0; i < len; i++)
		most = fmax(most, fabs(x[i]));
	return most;
}

uint32_t thmqi_emd(struct thmqi_emd *e, const double *x, uint32_t len, uint32_t sift_max,
		   uint32_t row_max, uint32_t stride, double *ret_rows)
{
	double floor_of_signal = TINY * largest(x, len);
	uint32_t rows = 0, i;
	double *row;

	memcpy(e->rest, x, len * sizeof(*x));
	while (rows + 1 < row_max) {
		row = ret_rows + (size_t)rows * stride;
		thmqi_emd_extrema(e, e->rest, len);
		if (e->maxima_count + e->minima_count < 3 ||
		    largest(e->rest, len) < floor_of_signal)
			break;
		rows++;
		if (!thmqi_emd_mode(e, e->rest, len, sift_max, row))
			return rows; /* the rest is a mode, and nothing is left */
		for (i = 0; i < len; i++)
			e->rest[i] -= row[i];
	}
	for (i = 0; i < len && e->rest[i] == 0; i++)
		;
	if (i == len && rows)
		return rows;
	memcpy(ret_rows + (size_t)rows * stride, e->rest, len * sizeof(*x));
	return rows + 1;
}
