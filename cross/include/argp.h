/*
 * Declarations of <argp.h> for a C library that has none (musl).
 *
 * elfutils compiles its small helper library (lib/) before libelf. Two files of that library belong to the
 * command line tools of elfutils and name types and constants of argp; libelf calls none of it. So declarations
 * suffice here, and a program that did call argp would fail at link time, as it should. The values are those of
 * the glibc manual, "Parsing Program Options with Argp".
 */
#ifndef EDGELAT_ARGP_H
#define EDGELAT_ARGP_H

#include <errno.h>
#include <stdio.h>

#define OPTION_ARG_OPTIONAL 0x1
#define ARGP_ERR_UNKNOWN E2BIG
#define ARGP_HELP_SEE 0x04

typedef int error_t;

struct argp_state;

typedef error_t (*argp_parser_t)(int key, char *arg, struct argp_state *state);

struct argp_option {
	const char *name;
	int key;
	const char *arg;
	int flags;
	const char *doc;
	int group;
};

struct argp_child {
	const struct argp *argp;
	int flags;
	const char *header;
	int group;
};

struct argp {
	const struct argp_option *options;
	argp_parser_t parser;
	const char *args_doc;
	const char *doc;
	const struct argp_child *children;
	char *(*help_filter)(int key, const char *text, void *input);
	const char *argp_domain;
};

struct argp_state {
	const struct argp *root_argp;
	int argc;
	char **argv;
	int next;
	unsigned int flags;
	unsigned int arg_num;
	int quoted;
	void *input;
	void **child_inputs;
	void *hook;
	char *name;
	FILE *err_stream;
	FILE *out_stream;
	void *pstate;
};

void argp_help(const struct argp *argp, FILE *stream, unsigned int flags, char *name);

#endif
