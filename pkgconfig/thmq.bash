# SPDX-License-Identifier: Apache-2.0
# Completion of thmq for bash. What there is to complete is asked of the program's own help, so that the two cannot disagree.
_thmq()
{
	local word=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]} command=${COMP_WORDS[1]} words

	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		words=$("$program" help 2>/dev/null | sed -n 's/^  thmq \([a-z]*\).*/\1/p')
	elif [ "$command" = help ]; then
		words=$("$program" help 2>/dev/null | sed -n 's/^  thmq \([a-z]*\).*/\1/p')
	elif [ "${word#-}" != "$word" ]; then
		words=$("$program" help "$command" 2>/dev/null | grep -oE '^ +--[a-z-]+' | tr -d ' ')
	elif [ "$COMP_CWORD" = 2 ] && { [ "$command" = topic ] || [ "$command" = group ] || [ "$command" = txn ] || [ "$command" = cluster ]; }; then
		words=$("$program" help "$command" 2>/dev/null | sed -n "1s/.* thmq $command \([a-z|]*\).*/\1/p" | tr '|' ' ')
	else
		# a directory, a file, or a URL, which is the user's to know
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
	fi
	# shellcheck disable=SC2086 # a list of words
	mapfile -t COMPREPLY < <(compgen -W "$(echo $words)" -- "$word")
}
complete -o filenames -F _thmq thmq
