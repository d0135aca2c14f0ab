/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "wall/agent.h"

const struct operation operations[] = {
#define AGENT 1
#define KERNEL 0
#define OPERATION(name, who, parameters, result, meaning) {name, who, parameters, result, meaning},
#include "wall/operations.def"
#undef OPERATION
};
const size_t operations_count = countof(operations);

const struct operation *
operation_find(struct bytes name)
{
    for (size_t i = 0; i < countof(operations); i++)
        if (bytes_equal(name, operations[i].name))
            return &operations[i];
    return NULL;
}

int
parameter_next(const struct operation *op, const char **at, struct parameter *ret)
{
    const char *word = (*at ? *at : op->parameters), *end, *colon, *type_end;

    word += strspn(word, " ");
    end = word + strcspn(word, " ");
    if (word == end)
        return 0;
    colon = word + strcspn(word, ":");
    type_end = colon + strcspn(colon, "!= ");
    ret->name = (struct bytes){(const uint8_t *)word, (size_t)(colon - word)};
    ret->type = (struct bytes){(const uint8_t *)colon + 1, (size_t)(type_end - colon - 1)};
    ret->required = *type_end == '!';
    ret->standard = *type_end == '='
                        ? (struct bytes){(const uint8_t *)type_end + 1, (size_t)(end - type_end - 1)}
                        : (struct bytes){0};
    *at = end;
    return 1;
}

struct op_error
op_error_of(int number)
{
    static const struct op_error rows[] = {
#define OP_ERROR(number, code, suggestion) {number, code, suggestion},
#include "wall/op_errors.def"
#undef OP_ERROR
    };

    for (size_t i = 0; i < countof(rows); i++)
        if (rows[i].number == number)
            return rows[i];
    return (struct op_error){number, "failed", ""};
}
