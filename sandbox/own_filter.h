/* SPDX-License-Identifier: BSD-3-Clause
 *
 * own_filter.h: husk's own programs that serve a sandbox have no more system calls than what runs in it.
 */
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "base/err.h"

#include "filter.h" /* made by mkfilter */

static inline int
own_filter_load(struct err *err)
{
    struct sock_fprog filter[] = {
        {countof(filter_calls), (struct sock_filter *)(uintptr_t)filter_calls},
        {countof(filter_arguments), (struct sock_filter *)(uintptr_t)filter_arguments}};

    for (size_t i = 0; i < countof(filter); i++)
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter[i]) < 0)
            return err_errno(err, "load the system call filter");
    return 0;
}
