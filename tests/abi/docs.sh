#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The documents against the headers: every public function has a man page with its very prototype, no document names a
# function or constant that does not exist, pages are well-formed and installed, README shows examples/hello.c, and what documents
# show of programs compiles.
# Usage: docs.sh [source directory]. Exit: 0, or 1 with what is wrong.
set -u
LC_ALL=C
export LC_ALL
cd "${1:-$(dirname "$0")/../..}" || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
bad=0

wrong()
{
	echo "$*" >&2
	bad=1
}

# Text on one line each, comments and preprocessor lines gone, blanks made one.
flat()
{
	sed '/^[[:space:]]*#/d' "$@" | tr '\n\t' '  ' |
		sed 's|/\*[^*]*\*\**\([^/*][^*]*\*\**\)*/| |g; s/  */ /g'
}

# "name|prototype" of every public function
flat include/thundermq/*.h | tr ';' '\n' | sed -n 's/.*THMQ_API //p' |
	sed 's/ *$//; s/\* /*/g; s/ *( */(/g' |
	sed -n 's/^\([^(]*[ *]\)\(thmq_[a-z0-9_]*\)(\(.*\))$/\2|\1\2(\3)/p' | sort > "$tmp/protos"
cut -d'|' -f1 "$tmp/protos" > "$tmp/functions"
[ "$(wc -l < "$tmp/functions")" -gt 40 ] || wrong "the headers were not understood"

# ------------------------------------------------------------------ man pages
while read -r f; do
	[ -f "doc/man/man3/$f.3" ] || wrong "no man page: doc/man/man3/$f.3"
done < "$tmp/functions"

for page in doc/man/man[137]/*; do
	file=$(basename "$page")
	grep -q "'$file'" doc/meson.build || wrong "doc/meson.build does not install $file"
	target=$(sed -n 's/^\.so //p' "$page")
	if [ -n "$target" ]; then
		[ -f "doc/man/$target" ] || wrong "$page refers to $target, which is not there"
		name=${file%.*}
		sed -n '/^\.SH NAME/,/^\.SH LIBRARY/p' "doc/man/$target" |
			grep -qw "$name" || wrong "doc/man/$target does not name $name"
		continue
	fi
	case $page in
	*/man3/*)
		for name in $(sed -n '/^\.SH NAME/{n;p;}' "$page" | sed 's/ \\-.*//; s/,//g'); do
			grep -qx "$name" "$tmp/functions" || wrong "$page: $name does not exist"
			# the SYNOPSIS says what the header says
			sed -n '/^\.SH SYNOPSIS/,/^\.SH DESCRIPTION/p' "$page" | sed '/^\./d' |
				tr '\n' ' ' | sed 's/\\f.//g; s/  */ /g; s/\* /*/g; s/ *( */(/g' | tr ';' '\n' |
				sed 's/^ *//' > "$tmp/synopsis"
			proto=$(sed -n "s/^$name|//p" "$tmp/protos")
			grep -qxF -- "$proto" "$tmp/synopsis" ||
				wrong "$page: SYNOPSIS of $name is not \"$proto\""
		done
		for section in 'RETURN VALUE' 'THREADS' 'SEE ALSO'; do
			grep -q "^\.SH $section" "$page" || wrong "$page: no section $section"
		done
		;;
	esac
	# what it refers to is there: ".BR name (3)" and "\fBname\fP(3)"
	{
		sed -n 's/^\.BR \([A-Za-z_0-9]*\) (\([137]\)).*/\1.\2/p' "$page"
		grep -o '\\fBthmq[a-z_0-9]*\\fP([137])' "$page" |
			sed 's/\\fB\(.*\)\\fP(\(.\))/\1.\2/'
	} | sort -u | while read -r ref; do
		case $ref in
		thmq* | thundermq*)
			[ -f "doc/man/man${ref##*.}/$ref" ] || echo "$page refers to $ref"
			;;
		esac
	done > "$tmp/refs"
	[ ! -s "$tmp/refs" ] || wrong "$(cat "$tmp/refs")"
done

if command -v groff > /dev/null; then
	for page in doc/man/man[137]/*; do
		(cd doc/man && groff -man -Tutf8 -ww -z "${page#doc/man/}") > "$tmp/groff" 2>&1
		[ ! -s "$tmp/groff" ] || wrong "$(cat "$tmp/groff")"
	done
else
	echo "groff is not here: the form of the pages is not checked"
fi

# ------------------------------------------ names in all documents exist
cat include/thundermq/*.h > "$tmp/headers"
for doc in README.md doc/*.md doc/man/man[137]/*; do
	grep -q '^\.so ' "$doc" && continue
	# functions are written with "(" behind them; \fB..\fP of man pages go first
	for name in $(sed 's/\\f[BIPR]//g' "$doc" |
		grep -oE '\bthmq_[a-z0-9_]+(\(|` *\()' | sed 's/[`( ]//g' | sort -u); do
		grep -qx "$name" "$tmp/functions" || wrong "$doc: $name() does not exist"
	done
	for name in $(grep -oE '\bTHMQ_[A-Z0-9_]+\b' "$doc" | sort -u); do
		case $name in
		*_ | THMQ_TEST_* | THMQ_TLS_KEY_PASSWORD | THMQ_CLUSTER_TLS_KEY_PASSWORD) continue ;;
		esac
		grep -qw "$name" "$tmp/headers" || wrong "$doc: $name does not exist"
	done
done

# every option that the program's help names is on its page
for option in $(grep -oE '^[[:space:]]+"  --[a-z-]+' examples/thmq.c | sed 's/.*"  //' | sort -u); do
	sed 's/\\-/-/g' doc/man/man1/thmq.1 | grep -q -- "^\\\\fB$option\\\\fP" || wrong "doc/man/man1/thmq.1 says nothing of $option"
done

# links between the documents lead somewhere
for doc in README.md doc/*.md; do
	for link in $(grep -oE '\]\([^)#: ]+' "$doc" | sed 's/](//' | sort -u); do
		[ -e "$(dirname "$doc")/$link" ] || wrong "$doc: the link to $link leads nowhere"
	done
done

# every error number has its cure
for name in $(grep -oE 'THMQ_E[A-Z]+ = ' include/thundermq/thundermq.h | cut -d' ' -f1); do
	grep -q "$name" doc/errors.md || wrong "doc/errors.md says nothing of $name"
done

# what a header says that a call returns stands in its row there
if command -v python3 > /dev/null; then
	python3 - > "$tmp/rows" <<- 'END' || wrong "$(cat "$tmp/rows")"
		import re, sys
		rows, missing = {}, []
		for calls, errors in re.findall(r"^\| (`thmq_[^|]*) \| ([^|]*) \|$", open("doc/errors.md", encoding="utf-8").read(), re.M):
		    for call in re.findall(r"`(thmq_\w+)\(\)`", calls):
		        rows[call] = None if "as `" in errors else set(re.findall(r"`(\w+)`", errors))
		for header in ("thundermq", "log", "stats", "access"):
		    text = open(f"include/thundermq/{header}.h", encoding="utf-8").read()
		    for comment, call in re.findall(r"/\*\*((?:(?!\*/).)*)\*/\s*THMQ_API[^;]*?\b(thmq_\w+)\s*\(", text, re.S):
		        said = comment.partition("Return:")[2].partition("\n * Threads:")[0]
		        said = set(re.findall(r"-((?:THMQ_)?E[A-Z0-9]+)", said)) - {"EPERM" if header == "log" else ""}
		        if call == "thmq_broker_close":
		            said.discard("EBUSY")  # of who opens the directory behind it
		        if said and rows.get(call, set()) is not None and said - rows.get(call, set()):
		            missing.append(f"doc/errors.md: {call}() lacks {sorted(said - rows.get(call, set()))}")
		print("\n".join(missing))
		sys.exit(bool(missing) or len(rows) < 60)
	END
fi

# ---------------------------------------------- the program that README shows
awk '/^```c/ && !done { on = 1; next } /^```/ { if (on) done = 1; on = 0 } on' README.md > "$tmp/hello.c"
if [ -f examples/hello.c ]; then
	diff -u examples/hello.c "$tmp/hello.c" || wrong "README.md does not show examples/hello.c"
else
	wrong "examples/hello.c is not there"
fi

# ------------------------------------- pieces of programs, with what stands around them in one's mind
snippets()
{
	cat <<- 'END'
		#include <errno.h>
		#include <string.h>
		#include <sys/epoll.h>
		#include <thundermq/forecast.h>
		#include <thundermq/log.h>
		#include <thundermq/reactor.h>
		#include <thundermq/thundermq.h>
		#include <thundermq/transport.h>
		#define SECOND 1000000000ull
		#define MINUTE (60 * SECOND)
		void use();
		void work_on(const struct thmq_message *message);
		void look_at(const struct thmq_event *events, int count);
		void store_in_database(const void *data, uint64_t number);
		void take_messages(void);
		void on_other(int fd);
		extern struct thmq_log_events log_events;
	END
	awk '
	/^```c$/ {
		on = 1
		printf "void snippet_%d(struct thmq_env *env, void *store, int epoll, int running);\n", ++n
		printf "void snippet_%d(struct thmq_env *env, void *store, int epoll, int running)\n{\n", n
		if (FILENAME ~ /log.md$/) {
			print "struct thmq_log *log = NULL; struct thmq_log_reader *reader = NULL; struct thmq_run_header *run;"
			print "struct thmq_record_view records[4], record; struct thmq_record_cursor cursor; struct thmq_log_view view;"
			print "struct thmq_log_hit hit; uint64_t index = 0, durable_index = 0, begin = 0, end = 0, offset; int64_t since_ns = 0;"
			print "struct thmq_log_events events = log_events; uint32_t count = 4;"
		} else {
			print "struct thmq_broker *broker; struct thmq_session *session; struct thmq_consumer *consumer; struct thmq_txn *txn;"
			print "struct thmq_producer *producer, *orders, *bills; struct thmq_message messages[64], message; struct thmq_event events[16];"
			print "struct thmq_response responses[16]; struct thmq_forecast *f; double next[8], count_of_this_tick = 0;"
			print "const void *data = NULL, *order = NULL, *bill = NULL, *question = NULL, *answer = NULL; void *cookie = NULL; uint64_t timeout = 0, order_len = 0, bill_len = 0;"
			print "int64_t new_year = 0; int n, i;"
		}
		print "uint32_t len; int rc;\n{"
		printf "#line %d \"%s\"\n", NR + 1, FILENAME
		next
	}
	/^```/ { if (on) print "}\n}"; on = 0 }
	/^…$/ { $0 = "" }
	on
	' "$1"
}
for doc in $(grep -l '^```c$' doc/*.md | grep -v custom-brokers); do
	snippets "$doc" > "$tmp/snippets.c"
	${CC:-cc} -std=gnu11 -D_GNU_SOURCE -fsyntax-only -Wall -Wextra -Werror -Wno-unused -Wno-uninitialized -Wno-maybe-uninitialized -Iinclude \
		"$tmp/snippets.c" || wrong "$doc shows what does not compile"
done

# what doc/custom-brokers.md shows are pieces of its program, which the tests build and run
if command -v python3 > /dev/null; then
	python3 - > "$tmp/pieces" <<- 'END' || wrong "$(cat "$tmp/pieces")"
		import re, sys
		program = open("examples/queue-broker/queue_broker.c", encoding="utf-8").read()
		pieces = re.findall(r"^```c\n(.*?)^```$", open("doc/custom-brokers.md", encoding="utf-8").read(), re.S | re.M)
		strange = [p for p in pieces if p not in program]
		for p in strange:
		    print("doc/custom-brokers.md shows what is not in examples/queue-broker/queue_broker.c:\n" + p)
		sys.exit(bool(strange) or len(pieces) < 6)
	END
fi

[ $bad = 0 ] && echo "documents agree with the headers: $(wc -l < "$tmp/functions") functions"
exit $bad
