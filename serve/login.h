/* SPDX-License-Identifier: BSD-3-Clause
 *
 * login.h: a way in for clients that have cookies, and a form for the token (the password): VS Code and Open WebUI use it as
 * a browser would. What they need of Jupyter Server's pages is here, and no more: /login, and /tree and /lab, whose
 * status says whether one must log in.
 *
 * A cookie is sent by the browser whatever page asks. So who has nothing else must come from a page of this server, and
 * for all but GET and HEAD say in X-XSRFToken what is in the cookie _xsrf, which no other page can read.
 */
#pragma once

#include "serve/http.h"

void login_start(struct server *s); /* makes the secret of its sessions */
/* Whether it has the cookie of a session, and may do this with it. */
int login_knows(const struct exchange *x);
/* 302 to the form, which leads back here. */
void login_ask(struct exchange *x);
