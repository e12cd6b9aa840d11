// Requests to the admin port. The sign-in is a cookie that scripts can't read.

/** What the proxy refused, with its words, its code and its status. */
export class Refused extends Error {
  constructor(message, status, code) {
    super(message);
    Object.assign(this, { status, code });
  }
}

/** Send a request and return its JSON, or null if it has none. Throws: Refused; TypeError, if nobody answers. */
export async function ask(method, path, body) {
  const options =
    body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, { method, cache: "no-store", ...options });
  if (!response.ok) throw await refused(response);
  return response.status === 204 ? null : response.json();
}

/** Return the Refused of an error response, whatever API's shape it has. */
export async function refused(response) {
  const text = await response.text();
  let told = {};
  try {
    const { error, message, code } = JSON.parse(text);
    told = error?.message ? error : { message, code };
  } catch {
    // not JSON: the status has to do
  }
  return new Refused(told.message ?? `HTTP ${response.status} ${text.slice(0, 200)}`, response.status, told.code);
}

export const signIn = (token) => ask("POST", "/admin/sign-in", { token });
export const signOut = () => ask("POST", "/admin/sign-out", {});
export const pathOf = (ident) => `/admin/streams/${encodeURIComponent(ident)}`;
