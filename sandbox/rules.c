/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rules.c: the Landlock rules of a view. Apart from landlock.c because the broker makes them
 * and pid 1, which links nothing, takes them.
 */
#include "sandbox/landlock.h"

#include <string.h>

int
landlock_add(struct buf *rules, size_t *nparts, uint64_t rights, const char *path)
{
    uint8_t head[12];

    put32(head, (uint32_t)(8 + strlen(path)));
    put64(head + 4, rights);
    ++*nparts;
    return buf_add(rules, head, sizeof head) < 0 || buf_text(rules, path) < 0 ? -1 : 0;
}

int
landlock_rules(const struct policy *policy, const struct mount_view *view, struct buf *ret,
               size_t *nparts)
{
    static const struct {
        uint64_t rights;
        const char *path;
    } fixed[] = {
        {LANDLOCK_READ, "/"}, /* whatever is mounted; writing and making is refused */
        {LANDLOCK_USE, "/dev"},
        {LANDLOCK_WRITE, "/dev/shm"}, /* multiprocessing makes its semaphores here */
        {LANDLOCK_WRITE, "/dev/mqueue"},
        {LANDLOCK_USE, "/proc"},
    };

    *nparts = 0;
    for (size_t i = 0; i < countof(fixed); i++)
        if (landlock_add(ret, nparts, fixed[i].rights, fixed[i].path) < 0)
            return -1;
    /* A rule goes for everything below it, so this one allows what read-only mounts, /proc and
     * /dev still refuse. No descriptor of anything outside can be used all the same. */
    if (policy->profile == PROFILE_IMAGE && landlock_add(ret, nparts, LANDLOCK_CHANGE, "/") < 0)
        return -1;
    for (size_t i = 0; i < view->len; i++)
        if (view->entry[i].kind != MOUNT_READ_ONLY &&
            landlock_add(ret, nparts, LANDLOCK_WRITE, view->entry[i].target) < 0)
            return -1;
    return 0;
}
