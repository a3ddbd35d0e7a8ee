/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of this room share: words of the language, and what a text becomes. */
#ifndef THMQI_FILTER_INTERNAL_H
#define THMQI_FILTER_INTERNAL_H

#include <thundermq/thundermq.h>

#include "filter/filter.h"

#define TEXT_MAX THMQ_FILTER_MAX
#define STEPS_MAX 512u
#define CONSTANTS_MAX 256u
#define NAMES_MAX 32u
#define DEPTH_MAX 32u /* of brackets, and of values that wait */
#define LIKE_MAX 4096u /* bytes of a value that LIKE looks at: it is neither true nor false of longer ones */

/* ------------------------------------------------------------------- words */

enum word {
	WORD_END,
	WORD_NAME, /* of a header */
	WORD_TEXT,
	WORD_INT,
	WORD_REAL,
	WORD_OPEN,
	WORD_CLOSE,
	WORD_COMMA,
	WORD_PLUS,
	WORD_MINUS,
	WORD_TIMES,
	WORD_OVER,
	WORD_MODULO,
	WORD_EQUAL,
	WORD_UNEQUAL,
	WORD_LESS,
	WORD_LESS_EQUAL,
	WORD_MORE,
	WORD_MORE_EQUAL,
	WORD_AND,
	WORD_OR,
	WORD_NOT,
	WORD_BETWEEN,
	WORD_IN,
	WORD_LIKE,
	WORD_ESCAPE,
	WORD_IS,
	WORD_NULL,
	WORD_TRUE,
	WORD_FALSE,
	WORD_KEY,
	WORD_TAG,
	WORD_TIMESTAMP
};

struct lexer {
	const char *text;
	uint32_t len;
	uint32_t next; /* what follows the word */
	/* the word: */
	enum word word;
	uint32_t at, end;
	int64_t whole;
	double real;
	struct thmqi_filter_error *error;
};

/* The next word. 0; -EINVAL, and @error is set. */
int thmqi_filter_lex(struct lexer *l);
int thmqi_filter_wrong(struct lexer *l, uint32_t at, const char *what); /* -EINVAL */
/* A quoted word's bytes, without the quotes and with the doubled ones once. Return: how many. */
uint32_t thmqi_filter_unquote(const struct lexer *l, char *to);

/* ---------------------------------------------------------------- what it becomes */

enum kind { KIND_NULL, KIND_BOOL, KIND_INT, KIND_REAL, KIND_TEXT };

struct value {
	uint32_t kind;
	uint32_t len; /* TEXT */
	union {
		int64_t whole; /* BOOL: 0 or 1 */
		double real;
		const char *text;
	};
};

/* Of a machine with a stack: a step takes what it needs from its top, and leaves one value there. */
enum step_kind {
	STEP_CONSTANT, /* at */
	STEP_HEADER,   /* at: which name */
	STEP_KEY,
	STEP_TAG,
	STEP_TIME,
	STEP_NEGATE,
	STEP_ADD,
	STEP_SUBTRACT,
	STEP_MULTIPLY,
	STEP_DIVIDE,
	STEP_MODULO,
	STEP_EQUAL,
	STEP_UNEQUAL,
	STEP_LESS,
	STEP_LESS_EQUAL,
	STEP_MORE,
	STEP_MORE_EQUAL,
	STEP_BETWEEN, /* three values */
	STEP_IN,      /* at: the first of count constants */
	STEP_LIKE,    /* at: a constant; count: 0, or what escapes, plus 1 */
	STEP_IS_NULL,
	STEP_NOT,
	STEP_AND,
	STEP_OR,
	STEP_SKIP_FALSE, /* if the top is FALSE: to step `at`, which is behind the STEP_AND that it would go to; else nothing */
	STEP_SKIP_TRUE
};

struct step {
	uint8_t kind;
	uint8_t reserved;
	uint16_t at;
	uint32_t count;
};

struct name {
	uint32_t at, len; /* in bytes[] */
};

struct thmqi_filter {
	uint32_t step_count, constant_count, name_count;
	uint32_t byte_count;
	uint64_t tags;
	struct name names[NAMES_MAX];
	struct value constants[CONSTANTS_MAX];
	struct step steps[STEPS_MAX];
	char bytes[TEXT_MAX]; /* of names and constants: never more than the text has */
};

/* % stands for any bytes, _ for one character. @escape: 0 none, else what makes the one behind it mean itself, plus 1 */
bool thmqi_filter_like(const char *text, uint32_t len, const char *pattern, uint32_t pattern_len, uint32_t escape);

#endif
