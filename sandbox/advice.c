/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/advice.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"

#define ANY 0
#define REFUSED                                                                                \
    "this machine refuses user namespaces to you: in a container, run it with "                \
    "'--security-opt seccomp=unconfined --security-opt systempaths=unconfined'; on Debian, "   \
    "'sysctl kernel.unprivileged_userns_clone=1'; on Ubuntu, an AppArmor profile with 'userns,'; "  \
    "or ask for less by name: '--containment landlock'"
#define NO_TPROXY                                                                              \
    "this kernel has no nftables with tproxy, which '--network all' takes: "                   \
    "'modprobe nft_tproxy', or list hosts with --allow"
#define OLD_KERNEL                                                                             \
    "this kernel lacks what husk needs (Linux 5.13 or newer), or a filter around husk hides it"

static const struct {
    const char *step; /* "ANY": every step */
    int code;         /* ANY: every errno */
    const char *text;
} table[] = {
#define ADVICE(step, code, text) {#step, code, text},
#include "sandbox/advice.def"
#undef ADVICE
};

const char *
advice_for(enum containment level, const char *step, int code)
{
    for (size_t i = 0; i < countof(table); i++) {
        /* Those rows speak of namespaces: without, no step has to do with them. */
        int fits = strcmp(table[i].step, "ANY") == 0 ? level == LEVEL_FULL
                                                     : strcmp(table[i].step, step) == 0;
        if (fits && (table[i].code == ANY || table[i].code == code))
            return table[i].text;
    }
    return "";
}
