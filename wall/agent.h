/* SPDX-License-Identifier: BSD-3-Clause
 *
 * agent.h: the wall between supervisor and husk-agent (agent.def), and the table of operations that
 * both are made from (operations.def).
 */
#pragma once

#include "wall/frame.h"

#define AGENT_FD 3                    /* husk-agent finds its stream socket here */
#define AGENT_MESSAGE (64u << 20)     /* bytes: the largest call or result */
#define AGENT_READ_MAX (16u << 20)    /* bytes of a file in one result */

enum agent_sender { AGENT_BY_KERNEL = 1, AGENT_BY_AGENT = 2 };

enum agent_number {
#define FRAME(name, no, sender, max, min, many, meaning) AGENT_##name = no,
#include "wall/agent.def"
#undef FRAME
};

extern const struct frame_rule agent_rules[FRAME_LIMIT];

struct operation {
    const char *name;
    int by_agent;
    const char *parameters, *result, *meaning; /* operations.def */
};
extern const struct operation operations[];
extern const size_t operations_count;

/* The row of that name, or NULL. */
const struct operation *operation_find(struct bytes name);

/* One parameter of a row's text: *at walks it. 0 at the end. */
struct parameter {
    struct bytes name, type, standard; /* standard: empty if there is none */
    int required;
};
int parameter_next(const struct operation *op, const char **at, struct parameter *ret);

/* The row of op_errors.def for an errno; others are "failed". */
struct op_error {
    int number;
    const char *code, *suggestion;
};
struct op_error op_error_of(int number);
