/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tables.c: the rows of interp.def, aside.def, sandbox.def and agent.def as data.
 */
#include "wall/agent.h"
#include "wall/aside.h"
#include "wall/interp.h"
#include "wall/sandbox.h"

#define ANY FRAME_ANY_PARTS
#define MANY WALL_PARTS

const struct frame_rule interp_rules[FRAME_LIMIT] = {
#define KERNEL INTERP_BY_KERNEL
#define INTERP INTERP_BY_INTERP
#define BOOT INTERP_BOOT
#define IDLE INTERP_IDLE
#define BUSY INTERP_BUSY
#define FRAME(name, handler, no, sender, max, min, many, when, meaning) FRAME_RULE(name, no, sender, max, min, many, when, 0)
#include "wall/interp.def"
#undef FRAME
#undef KERNEL
};

const struct frame_rule sandbox_rules[FRAME_LIMIT] = {
#define KERNEL SANDBOX_BY_KERNEL
#define BROKER SANDBOX_BY_BROKER
#define INIT SANDBOX_BY_INIT
#define NETWORK SANDBOX_BY_NETWORK
#define NEW SANDBOX_NEW
#define READY SANDBOX_READY
#define FRAME(name, no, sender, max, min, many, fds, when, meaning) FRAME_RULE(name, no, sender, max, min, many, when, fds)
#include "wall/sandbox.def"
#undef FRAME
};

#undef KERNEL
const struct frame_rule agent_rules[FRAME_LIMIT] = {
#define KERNEL AGENT_BY_KERNEL
#define AGENT AGENT_BY_AGENT
#undef WALL_MESSAGE
#define WALL_MESSAGE AGENT_MESSAGE
#define FRAME(name, no, sender, max, min, many, meaning) FRAME_RULE(name, no, sender, max, min, many, 1, 0)
#include "wall/agent.def"
#undef FRAME
};

#undef INTERP
const struct frame_rule aside_rules[FRAME_LIMIT] = {
#undef KERNEL
#define KERNEL ASIDE_BY_KERNEL
#define INTERP ASIDE_BY_INTERP
#define FRAME(name, no, sender, max, min, many, meaning) FRAME_RULE(name, no, sender, max, min, many, 1, 0)
#include "wall/aside.def"
#undef FRAME
};
