/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/library.h"

#include <dlfcn.h>
#include <errno.h>

int
library_load(const char *file, const struct library_call *calls, size_t n, struct err *err)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return err_set(err, ENOENT, "load a library: %s", dlerror());
    for (size_t i = 0; i < n; i++)
        if (!(*calls[i].to = dlsym(library, calls[i].name)))
            return err_set(err, ENOSYS, "%s has no %s()", file, calls[i].name);
    return 0;
}
