/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forecast_csv.c - forecast a series from a file, tick by tick, and draw what came and what was said of it as SVG.
 *
 *	forecast_csv FILE [OUT.svg [ticks ahead [values]]]
 *
 * FILE has one value a line, or columns of which the last one is the value; lines without a number are passed over. With a number of
 * values only these first ones are taken. A forecast is made of each value by what came before it, and nothing else.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/forecast.h>

#define SHOWN 300u /* values in the drawing: the last ones */
#define WIDTH 900.0
#define PANEL 150.0 /* height of one */
#define PANELS_MAX 20u

struct series {
	double *values;
	double *said; /* of each value, so many ticks before */
	uint32_t count, room;
	uint32_t ahead;
};

static const char *const names[THMQ_FORECAST_MODELS] = {
	"", "naive", "SES", "AR", "ARIMA", "SW-ICEEMDAN-ARIMA", "traffic", ""};

/* The number behind the last comma. Return: there is one. */
static int value_of(const char *line, double *ret_value)
{
	const char *comma = strrchr(line, ',');
	const char *at = comma ? comma + 1 : line;
	char *end;

	*ret_value = strtod(at, &end);
	return end != at && (!*end || strchr(" \t\r\n", *end)) && isfinite(*ret_value);
}

static int load(const char *path, struct series *s, uint32_t most)
{
	FILE *f = fopen(path, "r");
	char line[4096];
	double value, *more;

	if (!f)
		return perror(path), 1;
	while (s->count < most && fgets(line, sizeof(line), f)) {
		if (!value_of(line, &value))
			continue;
		if (s->count == s->room) {
			s->room = s->room ? 2 * s->room : 1024;
			more = realloc(s->values, s->room * sizeof(*more));
			if (!more)
				break;
			s->values = more;
		}
		s->values[s->count++] = value;
	}
	fclose(f);
	if (s->count < 2)
		return fprintf(stderr, "%s: no series of numbers\n", path), 1;
	s->said = calloc(s->count, sizeof(*s->said));
	return s->said ? 0 : 1;
}

static int follow(struct thmq_forecast *f, struct series *s)
{
	double next[THMQ_FORECAST_HORIZON_MAX];
	uint32_t i;
	int rc;

	for (i = 0; i < s->count; i++) {
		rc = thmq_forecast_feed(f, s->values[i]);
		if (rc)
			return fprintf(stderr, "value %u: %s\n", i, thmq_strerror(rc)), 1;
		thmq_forecast_work(f, UINT32_MAX);
		thmq_forecast_predict(f, s->ahead, next);
		if (i + s->ahead < s->count)
			s->said[i + s->ahead] = next[s->ahead - 1];
		if (i < s->ahead)
			s->said[i] = s->values[0]; /* nobody said anything of these */
	}
	return 0;
}

/* ----------------------------------------------------------------- drawing */

static void span_of(const double *x, uint32_t count, double *low, double *high)
{
	for (uint32_t i = 0; i < count; i++) {
		*low = fmin(*low, x[i]);
		*high = fmax(*high, x[i]);
	}
}

static void curve(FILE *out, const double *x, uint32_t count, double top, double low, double high,
		  const char *cls)
{
	double scale = high > low ? (PANEL - 24) / (high - low) : 0;

	fprintf(out, "<polyline class=\"%s\" points=\"", cls);
	for (uint32_t i = 0; i < count; i++)
		fprintf(out, "%.1f,%.1f ", 10 + (WIDTH - 20) * i / (count > 1 ? count - 1 : 1),
			top + PANEL - 6 - (x[i] - low) * scale);
	fprintf(out, "\"/>\n");
}

static void label(FILE *out, double y, const char *text, double low, double high)
{
	fprintf(out, "<text x=\"10\" y=\"%.0f\">%s (%.4g … %.4g)</text>\n", y + 12, text, low,
		high);
}

static int draw(const char *path, struct thmq_forecast *f, const struct series *s)
{
	uint32_t shown = s->count < SHOWN ? s->count : SHOWN, from = s->count - shown, k;
	struct thmq_forecast_stats st = {.size = sizeof(st)};
	double low = INFINITY, high = -INFINITY, mode[THMQ_FORECAST_WINDOW_MAX];
	char text[80];
	FILE *out = fopen(path, "w");

	if (!out)
		return perror(path), 1;
	thmq_forecast_stats(f, &st);
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
		"font-family=\"sans-serif\" font-size=\"11\">\n"
		"<style>polyline{fill:none;stroke-width:1.2}.came{stroke:#234}.said{stroke:#d62}."
		"mode{stroke:#27a}"
		"rect{fill:#fff}</style><rect width=\"100%%\" height=\"100%%\"/>\n",
		WIDTH, PANEL * (1 + 0.6 * st.mode_count));
	span_of(s->values + from, shown, &low, &high);
	snprintf(text, sizeof(text), "dark: what came; orange: what was said of it %u ahead",
		 s->ahead);
	label(out, 0, text, low, high);
	curve(out, s->values + from, shown, 0, low, high, "came");
	span_of(s->said + from, shown, &low, &high);
	curve(out, s->said + from, shown, 0, low, high, "said");
	for (k = 0; k < st.mode_count && k < PANELS_MAX; k++) {
		int n = thmq_forecast_mode(f, k, mode, THMQ_FORECAST_WINDOW_MAX);

		low = INFINITY;
		high = -INFINITY;
		span_of(mode, (uint32_t)n, &low, &high);
		snprintf(text, sizeof(text),
			 k + 1 < st.mode_count ? "mode %u of the newest window" : "its rest",
			 k + 1);
		fprintf(out, "<g transform=\"translate(0 %.0f) scale(1 0.6)\">\n",
			PANEL * (1 + 0.6 * k));
		curve(out, mode, (uint32_t)n, 0, low, high, "mode");
		fprintf(out, "</g>\n");
		label(out, PANEL * (1 + 0.6 * k), text, low, high);
	}
	fprintf(out, "</svg>\n");
	return fclose(out) ? (perror(path), 1) : 0;
}

static void tell(const struct thmq_forecast *f)
{
	struct thmq_forecast_stats st = {.size = sizeof(st)};

	thmq_forecast_stats(f, &st);
	printf("%llu values; %llu decompositions of %u modes, %llu siftings, %llu fits; left out: "
	       "idle %llu, no use %llu\n",
	       (unsigned long long)st.values, (unsigned long long)st.decompositions, st.mode_count,
	       (unsigned long long)st.sifts, (unsigned long long)st.fits,
	       (unsigned long long)st.skipped_idle, (unsigned long long)st.skipped_trust);
	for (uint32_t m = THMQ_FORECAST_NAIVE; m < THMQ_FORECAST_TRAFFIC; m++)
		if (st.ratio[m] > 0)
			printf("%-18s error %.4g of late, %.2f of naive's%s\n", names[m],
			       st.error[m], st.ratio[m], m == st.model ? "  <- in charge" : "");
}

int main(int argc, char **argv)
{
	struct series s = {.ahead = argc > 3 ? (uint32_t)atoi(argv[3]) : 1};
	struct thmq_forecast *f;
	double error = 0, naive = 0;
	uint32_t i;
	int rc;

	if (argc < 2 || !s.ahead || s.ahead > THMQ_FORECAST_HORIZON_MAX)
		return fprintf(stderr, "usage: %s FILE [OUT.svg [ticks ahead, 1 … %u [values]]]\n",
			       argv[0], THMQ_FORECAST_HORIZON_MAX),
		       2;
	if (load(argv[1], &s, argc > 4 ? (uint32_t)atoi(argv[4]) : UINT32_MAX))
		return 1;
	if (thmq_forecast_open(THMQ_FORECAST_OPTS(.horizon = s.ahead), &f))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	rc = follow(f, &s);
	for (i = s.count / 2; i < s.count && !rc; i++) {
		error += fabs(s.said[i] - s.values[i]);
		naive += fabs(s.values[i >= s.ahead ? i - s.ahead : 0] - s.values[i]);
	}
	if (!rc) {
		tell(f);
		printf("second half, %u ahead: mean error %.4g, naive %.4g\n", s.ahead,
		       error / (s.count - s.count / 2), naive / (s.count - s.count / 2));
		if (argc > 2)
			rc = draw(argv[2], f, &s);
	}
	thmq_forecast_close(f);
	free(s.said);
	free(s.values);
	return rc;
}
